import { thumbnail } from "/assets/api.js";
import { element } from "/assets/dom.js";

/** Why there is no picture: of this label, or at all. */
export function nothing(label) {
  return label ? "Nothing found: no picture of this label." : "The catalogue is empty: nearkin index adds pictures.";
}

/** What the picture is, as far as the matches among those of a label tell. */
export function verdict({ hits, names, threshold }, label) {
  const others = hits.filter((hit) => !hit.itself);
  const matches = others.filter((hit) => hit.match !== false).length;
  if (!hits.length) return nothing(label);
  if (!others.length) return "Nothing found but the picture itself.";
  if (!matches) return `No match: nothing ${others.length < hits.length ? "else " : ""}here is near enough to be of the same kind.`;
  const of = threshold === null ? `the ${matches} nearest` : `${matches} match${matches === 1 ? "" : "es"}`;
  if (!names.length) return `No names: none of ${of} has a label.`;
  const first = names.slice(0, 3).map(({ label, votes }) => `${label}: ${votes}`).join(", ");
  return `${first}${names.length > 3 ? ", …" : ""} of ${of}`;
}

/** The hits as items of a list, with a line where the matches end. */
export function items({ hits, threshold }, onOpen, onWhy) {
  return hits.flatMap((hit, place) => {
    const item = card(hit, onOpen, onWhy);
    if (hit.match !== false || (place > 0 && !hits[place - 1].match)) return [item];
    return [element("li", { class: "line", id: "no-match" }, `No match beyond ${threshold.toFixed(3)}`), item];
  });
}

/** A picture of the catalogue; without a distance it is one to begin from. */
export function card(hit, onOpen, onWhy) {
  const file = hit.path?.startsWith(`${hit.label}/`) ? hit.path.slice(hit.label.length + 1) : hit.path;
  const name = hit.name ?? [hit.label, file].filter(Boolean).join(", ");
  const words = [["label", hit.label], ["path", file]].filter(([, text]) => text);
  const open = element("button", { type: "button", class: "open", "aria-label": `Search from ${name}` },
    element("img", { src: thumbnail(hit.id), alt: name, loading: "lazy", width: 160, height: 160 }),
    element("span", { class: "text" }, ...words.map(([kind, text]) => element("span", { class: kind }, text))));
  open.addEventListener("click", () => onOpen(hit.id));
  const item = element("li", { class: "card hit", "data-id": hit.id }, open);
  if (hit.distance !== undefined) {
    const reason = element("button", { type: "button", "aria-label": `Why ${name}` }, "Why");
    reason.addEventListener("click", () => onWhy(hit));
    item.append(element("div", { class: "foot" },
      element("span", {}, element("span", { class: "unseen" }, "Distance "), element("span", { class: "distance" }, hit.distance.toFixed(3)),
        hit.itself ? " itself" : ""),
      reason));
  }
  return item;
}

/** A button with a small picture. */
export function small(id, name, onOpen) {
  const open = element("button", { type: "button", "aria-label": `Search from ${name}` },
    element("img", { src: thumbnail(id), alt: name, loading: "lazy", width: 72, height: 72 }));
  open.addEventListener("click", () => onOpen(id));
  return element("li", {}, open);
}
