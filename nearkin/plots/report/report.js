function scoreRow({ title, meaning, untrained, trained }) {
  const track = element("div", { class: "track" });
  const place = (tag, kind, properties) => {
    const mark = element(tag, kind ? { class: kind } : {});
    Object.assign(mark.style, properties);
    track.append(mark);
  };
  if (untrained !== null && trained !== null) {
    const [low, high] = extent([untrained, trained]);
    place("i", "", { left: percent(low), width: percent(high - low) });
  }
  if (untrained !== null) place("b", "before", { left: percent(untrained) });
  if (trained !== null) place("b", "", { left: percent(trained) });

  const known = (value) => (value === null ? "–" : percent(value));
  const gain = untrained === null || trained === null ? null : 100 * (trained - untrained);
  const direction = gain === null || Math.abs(gain) < 0.05 ? "" : gain > 0 ? "up" : "down";
  const signed = gain === null ? "–" : `${{ up: "+", down: "−" }[direction] ?? "±"}${Math.abs(gain).toFixed(1)}`;
  return element("tr", {},
    element("th", { scope: "row" }, title, element("small", {}, meaning)),
    element("td", { class: "track-cell", "aria-hidden": "true" }, track),
    element("td", { class: "number" }, known(untrained)),
    element("td", { class: "number trained" }, known(trained)),
    element("td", { class: `number ${direction}` }, signed));
}

/** Nested values as nested lists. */
function tree(value) {
  const list = element("dl", { class: "tree" });
  for (const [key, item] of Object.entries(value)) {
    const nested = item !== null && typeof item === "object" && Object.keys(item).length > 0;
    const text = item === null ? "null" : typeof item === "object" ? "empty" : String(item);
    const flat = Array.isArray(item) && item.every((part) => part === null || typeof part !== "object");
    const content = flat ? item.map(String).join(", ") || "empty" : nested ? tree(item) : text;
    list.append(element("div", {},
      element("dt", {}, key),
      element("dd", nested && !flat ? { class: "nested" } : {}, content)));
  }
  return list;
}

function drawMap() {
  let mark = () => {};
  const map = mapStage(byId("stage"), DATA.map, { onSelect: (selected) => mark(selected) });
  mark = classList(map);
  byId("map-note").textContent = DATA.map.note;
  return map;
}

function showOnMap(map, labels) {
  map.select(labels);
  map.frame(labels);
  byId("map-section").scrollIntoView({ behavior: lessMotion.matches ? "auto" : "smooth" });
  map.canvas.focus({ preventScroll: true });
}

function drawReport() {
  document.title = `${DATA.name} · nearkin`;
  byId("name").textContent = DATA.name;
  byId("summary").textContent = DATA.summary;
  byId("facts").append(...definitions(DATA.facts));
  byId("scores").tBodies[0].append(...DATA.scores.map(scoreRow));
  byId("learning").hidden = DATA.charts.length === 0;
  byId("charts").append(...DATA.charts.map(curveChart));
  const map = drawMap();
  byId("sections").append(...DATA.sections.filter(({ rows }) => rows.length).map(neighbourSection));
  byId("confused-section").hidden = DATA.confused.length === 0;
  byId("confused").append(...DATA.confused.map((pair) => {
    const onMap = pair.classes.every((label) => map.byClass.has(label));
    return confusedPair(pair, onMap ? () => showOnMap(map, pair.classes) : null);
  }));
  byId("method").append(...definitions(DATA.method));
  byId("config").append(tree(DATA.config));
}

drawReport();
