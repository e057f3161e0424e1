/**
 * A map with its buttons and the tooltip, in the place of an empty element. Ids begin with `prefix`, so that a page can
 * hold several; `onSelect` hears which classes are singled out.
 */
function mapStage(place, data, { prefix = "", label = "Map of pictures", onSelect = () => {} } = {}) {
  const button = (id, text, attributes = {}) => element("button", { type: "button", id: prefix + id, ...attributes }, text);
  const canvas = element("canvas", {
    id: `${prefix}map`, class: "map-canvas", tabindex: 0, role: "application", "aria-label": label, "aria-describedby": "map-help",
  });
  const asPoints = button("as-points", "Points", { "aria-pressed": true });
  const asPictures = button("as-pictures", "Pictures", { "aria-pressed": false });
  const zoomOut = button("zoom-out", "−", { "aria-label": "Zoom out" });
  const zoomIn = button("zoom-in", "+", { "aria-label": "Zoom in" });
  const reset = button("zoom-reset", "Whole map");
  const tooltip = element("div", { class: "tooltip", id: `${prefix}tooltip`, role: "status", hidden: "" },
    element("canvas", { width: 128, height: 128, "aria-hidden": "true" }), element("strong"), element("span"));
  const segments = (name, ...buttons) => element("div", { class: "segments", role: "group", "aria-label": name }, ...buttons);
  place.classList.add("stage");
  place.append(canvas, element("div", { class: "tools" },
    segments("Draw as", asPoints, asPictures), segments("Zoom", zoomOut, zoomIn, reset)), tooltip);

  const map = new PictureMap(canvas, tooltip, data, onSelect);
  asPoints.addEventListener("click", () => map.draws("points"));
  asPictures.addEventListener("click", () => map.draws("pictures"));
  canvas.addEventListener("drawn", () => {
    asPoints.setAttribute("aria-pressed", !map.showsPictures);
    asPictures.setAttribute("aria-pressed", map.showsPictures);
  });
  zoomIn.addEventListener("click", () => map.zoomBy(ZOOM.button));
  zoomOut.addEventListener("click", () => map.zoomBy(1 / ZOOM.button));
  reset.addEventListener("click", () => map.reset());
  return map;
}
