const LISTED = 300; // entries the list shows at once; the others are found by name

/** The list of the map's classes: find, order, single out. Returns what shows a selection in it. */
function classList(map) {
  const { names, sizes, right } = DATA.classes;
  const labels = [...map.byClass.keys()];
  const orders = {
    name: (a, b) => names[a].localeCompare(names[b], "en", { numeric: true }),
    right: (a, b) => right[a] / sizes[a] - right[b] / sizes[b],
  };
  const [filter, order, list] = [byId("class-filter"), byId("class-order"), byId("class-list")];

  function entry(label) {
    const dot = element("span", { class: "dot" });
    dot.style.background = classColor(label);
    const score = percent(right[label] / sizes[label]).replace(".0%", "%");
    const button = element("button", { type: "button", "data-label": label, title: names[label] },
      dot,
      element("span", { class: "name" }, names[label]),
      element("span", { class: "score", "aria-label": `Recall@1 ${score}` }, score));
    button.addEventListener("click", () => {
      const chosen = new Set(map.selected);
      if (!chosen.delete(label)) chosen.add(label);
      map.select(chosen);
    });
    return element("li", {}, button);
  }

  function fill() {
    const wanted = filter.value.trim().toLowerCase();
    const found = labels.filter((label) => names[label].toLowerCase().includes(wanted)).sort(orders[order.value]);
    list.replaceChildren(...found.slice(0, LISTED).map(entry));
    const shown = Math.min(found.length, LISTED);
    byId("class-count").textContent =
      shown < labels.length ? `${whole(shown)} of ${whole(labels.length)} classes` : `${whole(shown)} classes and their Recall@1`;
    mark(map.selected);
  }

  function mark(selected) {
    for (const button of list.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", selected.has(Number(button.dataset.label)));
    }
    // A class chosen on the map comes into view in the list; scrollIntoView would move the page as well.
    const first = list.querySelector('[aria-pressed="true"]');
    if (first) list.scrollTop = clamp(list.scrollTop, first.offsetTop + first.offsetHeight - list.clientHeight, first.offsetTop);
    byId("class-clear").hidden = selected.size === 0;
  }

  filter.addEventListener("input", fill);
  order.addEventListener("change", fill);
  darkMode.addEventListener("change", fill);
  byId("class-clear").addEventListener("click", () => map.select([]));
  fill();
  return mark;
}
