/** One picture, large. */
function photo(picture, alt) {
  const title = `${className(classOf(picture))}\n${pathOf(picture)}`;
  return element("img", { src: DATA.pictures.large[picture], width: 128, height: 128, alt, title });
}

/** A title, and a row for every query: itself, then what it found. */
function neighbourSection({ title, note, rows }) {
  return element("section", {},
    element("h3", {}, title),
    element("p", { class: "note small" }, note),
    element("div", { class: "rows" }, ...rows.map(neighbourRow)));
}

function neighbourRow({ query, neighbours, distances }) {
  const name = className(classOf(query));
  const asked = element("figure", { class: "query" },
    element("div", { class: "frame" }, photo(query, `Query: ${name}`)),
    element("figcaption", {}, element("span", { class: "name" }, name)));
  const found = neighbours.map((picture, i) => element("li", {}, foundPicture(picture, distances[i], query)));
  return element("div", { class: "row card" }, asked, element("ol", {}, ...found));
}

function foundPicture(picture, distance, query) {
  const right = classOf(picture) === classOf(query);
  const name = className(classOf(picture));
  const caption = element("figcaption", {}, element("b", {}, distance.toFixed(distance < 10 ? 3 : 1)));
  if (!right) caption.append(element("span", { class: "name", title: name }, name));
  return element("figure", { class: `found ${right ? "right" : "wrong"}` },
    element("div", { class: "frame" }, photo(picture, `${right ? "Right" : "Wrong"}: ${name}`)),
    caption);
}

/** Two classes that are taken for each other, with examples, and a way to them on the map (null: not on it). */
function confusedPair({ classes, counts, examples }, showOnMap) {
  const [first, second] = classes.map(className);
  const sizes = classes.map((label) => DATA.classes.sizes[label]);
  const count = (number, of, from, to) =>
    element("div", {}, element("b", {}, `${number} of ${of}`), ` ${from} → ${to}`);
  const card = element("article", { class: "pair card" },
    element("h3", {}, first, element("span", {}, " and "), second),
    element("div", { class: "counts" },
      count(counts[0], sizes[0], first, second),
      count(counts[1], sizes[1], second, first)),
    element("div", { class: "examples" }, ...examples.map(([query, nearest]) => element("figure", {},
      photo(query, `Query: ${className(classOf(query))}`),
      photo(nearest, `Its nearest: ${className(classOf(nearest))}`)))));
  if (showOnMap) {
    const button = element("button", { type: "button", class: "link" }, "Show both on the map");
    button.addEventListener("click", showOnMap);
    card.append(button);
  }
  return card;
}
