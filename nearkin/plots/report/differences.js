/** Rows of one metric's chart: a method, its interval on a common axis, and the same in numbers. */
function differenceRows({ rows }) {
  const ends = rows.flatMap(({ mean, low, high }) => [low ?? mean, high ?? mean]);
  const [low, high] = extent([0, ...ends]);
  const room = 0.06 * (high - low || 0.01);
  const x = scale([low - room, high + room], [0, 100], false);
  const at = (value) => `${x(value)}%`;
  const marks = ticks([100 * (low - room), 100 * (high + room)], 7);

  function track(...children) {
    const lines = marks.map((mark) => placed("i", mark === 0 ? "zero" : "grid", { left: at(mark / 100) }));
    return element("td", { class: "track-cell", "aria-hidden": "true" },
      element("div", { class: "axis" }, ...lines, ...children));
  }

  const drawn = rows.map(({ name, mean, low, high, text, apart }) => {
    const kind = apart ? (mean > 0 ? "right" : "wrong") : "unsure";
    const bar = low === null ? [] : [placed("i", "bar", { left: at(low), width: `${x(high) - x(low)}%` })];
    return element("tr", { class: kind },
      element("th", { scope: "row" }, name),
      track(...bar, placed("b", "", { left: at(mean) })),
      element("td", { class: "number" }, text));
  });
  const numbers = marks.map((mark) => {
    const label = placed("span", "", { left: at(mark / 100) });
    label.textContent = `${mark > 0 ? "+" : mark < 0 ? "−" : ""}${short(Math.abs(mark))}`;
    return label;
  });
  const axis = element("tr", { class: "scale", "aria-hidden": "true" },
    element("td"), element("td", { class: "track-cell" }, element("div", {}, ...numbers)), element("td"));
  return [...drawn, axis];
}

/** An element with a place of its own; the page's policy has no style attributes. */
function placed(tag, kind, properties) {
  const node = element(tag, { class: kind });
  Object.assign(node.style, properties);
  return node;
}
