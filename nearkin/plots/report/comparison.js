/** The heading of one column: a button that sorts the rows by it, first the highest numbers, or from A to Z. */
function heading({ title, meaning }, column, rows) {
  const button = element("button", { type: "button" }, title);
  const head = element("th", { scope: "col", title: meaning, class: column ? "number" : "" }, button);
  button.addEventListener("click", () => {
    const numeric = rows.some(({ cells }) => cells[column].value !== null);
    const before = head.getAttribute("aria-sort");
    const descending = before ? before === "ascending" : numeric;
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const known = ({ value, text }) => (numeric ? value : text);
    const sorted = [...rows].sort((one, other) => {
      const [a, b] = [one, other].map(({ cells }) => known(cells[column]));
      if (a === null || b === null) return (a === null) - (b === null); // what has no number stays below
      const order = numeric ? a - b : a.localeCompare(b, "en", { numeric: true });
      return descending ? -order : order;
    });
    byId("table").tBodies[0].replaceChildren(...sorted.map(({ line }) => line));
  });
  return head;
}

function drawTable() {
  const rows = DATA.rows.map((cells) => {
    const [first, ...rest] = cells.map(({ text }) => text);
    const direction = (text) => (text.includes("▲") ? " up" : text.includes("▼") ? " down" : "");
    const line = element("tr", {},
      element("th", { scope: "row" }, first),
      ...rest.map((text) => element("td", { class: `number${direction(text)}` }, text)));
    return { cells, line };
  });
  byId("table").tHead.append(element("tr", {}, ...DATA.columns.map((column, i) => heading(column, i, rows))));
  byId("table").tBodies[0].append(...rows.map(({ line }) => line));
  byId("notes").append(...DATA.notes.map((note) => element("li", {}, note)));
}

function drawDifferences() {
  const charts = DATA.differences;
  byId("differences-section").hidden = charts.length === 0;
  if (!charts.length) return;
  byId("differences-title").textContent = `Against ${DATA.baseline}`;
  const choice = byId("difference-metric");
  choice.append(...charts.map(({ title }, i) => element("option", { value: i }, title)));
  const draw = () => byId("differences").tBodies[0].replaceChildren(...differenceRows(charts[choice.value]));
  choice.addEventListener("change", draw);
  draw();
}

/** One query, and what each of the two methods finds for it. */
function pairRow({ query, found }) {
  const name = className(classOf(query));
  const asked = element("figure", { class: "query" },
    element("div", { class: "frame" }, photo(query, `Query: ${name}`)),
    element("figcaption", {}, element("span", { class: "name" }, name)));
  const rows = found.map(({ precision, neighbours, distances }, i) => element("div", { class: "under" },
    element("p", {}, element("b", {}, DATA.shown.names[i]),
      precision === null ? " alone in its class" : ` average precision ${percent(precision)}`),
    element("ol", {}, ...neighbours.map((picture, j) => element("li", {}, foundPicture(picture, distances[j], query))))));
  return element("article", { class: "row card" }, asked, element("div", {}, ...rows));
}

function drawPairs() {
  byId("sections").append(...DATA.sections.filter(({ rows }) => rows.length).map(({ title, note, rows }) =>
    element("section", {}, element("h3", {}, title), element("p", { class: "note small" }, note),
      element("div", { class: "rows" }, ...rows.map(pairRow)))));
}

/** Two maps of the same pictures: what is marked or singled out on one is so on the other. */
function drawMaps() {
  byId("map-note").textContent = DATA.map.note;
  const equal = (one, other) => one.size === other.size && [...one].every((label) => other.has(label));
  const maps = DATA.map.layouts.map((layout, i) => {
    const name = DATA.shown.names[i];
    byId(`map-${i}`).textContent = name;
    return mapStage(byId(`stage-${i}`), { ...DATA.map, ...layout }, {
      prefix: `${"ab"[i]}-`,
      label: `Map of pictures under ${name}`,
      onSelect: (selected) => {
        if (!equal(maps[1 - i].selected, selected)) maps[1 - i].select(selected);
      },
    });
  });
  maps.forEach((map, i) => map.canvas.addEventListener("hovered", ({ detail }) => maps[1 - i].hover(detail)));
}

function drawComparison() {
  byId("name").textContent = DATA.name;
  byId("summary").textContent = DATA.summary;
  drawTable();
  drawDifferences();
  for (const section of document.querySelectorAll("section.shown")) section.hidden = DATA.shown === null;
  if (DATA.shown === null) return;
  for (const place of document.querySelectorAll(".shown-note")) place.textContent = DATA.shown.note;
  drawPairs();
  drawMaps();
  byId("method").append(...definitions(DATA.method));
}

drawComparison();
