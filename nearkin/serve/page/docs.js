import { ask } from "/assets/api.js";
import { byId, element } from "/assets/dom.js";

/** What a parameter may be, in a few words. */
function kind(schema) {
  const options = (schema.anyOf ?? [schema]).filter((each) => each.type !== "null").map((each) => each.type);
  const limits = [
    ["minimum", "≥"], ["exclusiveMinimum", ">"], ["maximum", "≤"], ["exclusiveMaximum", "<"],
  ].filter(([key]) => key in schema).map(([key, sign]) => `${sign} ${schema[key]}`);
  const usual = schema.default === undefined || schema.default === null ? [] : [`default ${schema.default}`];
  return [...options, ...limits, ...usual].join(", ");
}

const described = await ask("/api/openapi.json");
byId("about").textContent = `${described.info.summary}, version ${described.info.version}`;
for (const [path, methods] of Object.entries(described.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const rows = (operation.parameters ?? []).map(({ name, schema, description, required }) => element("tr", {},
      element("td", {}, element("code", {}, name)), element("td", {}, kind(schema) + (required ? ", required" : "")),
      element("td", {}, description ?? schema.description ?? "")));
    if (operation.requestBody) {
      rows.unshift(element("tr", {}, element("td", {}, "body"), element("td", {}, "bytes"), element("td", {}, operation.requestBody.description)));
    }
    const example = method === "post"
      ? `curl --data-binary @picture.jpg '${location.origin}${path}'` : `curl '${location.origin}${path}'`;
    byId("paths").append(element("section", { class: "card" },
      element("h2", {}, element("code", {}, `${method.toUpperCase()} ${path}`)), element("p", {}, operation.summary),
      element("table", {}, ...rows), element("pre", {}, example)));
  }
}
