import { address, ask, picture, thumbnail } from "/assets/api.js";
import { Crop } from "/assets/crop.js";
import { byId, element, whole } from "/assets/dom.js";
import { PictureMap } from "/assets/map.js";
import { Why } from "/assets/why.js";

const HITS = 24;
const SET = 120; // pictures of a lasso that are shown

let query = null; // { file } or { id }, and its name
let running = null; // what stops the search that is under way

const image = byId("query");
const crop = new Crop(byId("crop"), image, () => {
  byId("uncrop").hidden = !crop.frame;
  search();
});
const why = new Why();
const map = new PictureMap(byId("map"), byId("tooltip"), {
  onLoad: loaded, onPick: (id) => go(id), onSet: showSet,
});

// The query

function useFile(file) {
  if (!file) return;
  history.pushState(null, "", location.pathname);
  use({ file, name: file.name || "pasted picture", source: URL.createObjectURL(file) });
}

/** Search from a picture of the catalogue; the address tells which, so that Back goes back. */
function go(id) {
  if (location.hash === `#${id}`) return;
  location.hash = id;
}

function follow() {
  const id = location.hash.slice(1);
  if (/^[0-9a-f]{32}$/.test(id)) use({ id, name: "from the catalogue", source: picture(id) });
  else if (query?.id) clear();
}

function use(next) {
  if (query?.file) URL.revokeObjectURL(query.source);
  query = next;
  crop.frame = null;
  byId("uncrop").hidden = true;
  byId("empty").hidden = true;
  byId("asked").hidden = false;
  byId("query-name").textContent = query.name;
  image.alt = `The query, ${query.name}`;
  image.src = query.source;
  scrollTo({ top: 0, behavior: "smooth" });
  search();
}

function clear() {
  running?.abort();
  query = null;
  crop.frame = null;
  byId("asked").hidden = true;
  byId("empty").hidden = false;
  byId("file").value = "";
  if (location.hash) history.pushState(null, "", location.pathname);
  browse();
}

async function search() {
  if (!query) {
    browse();
    return;
  }
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  const asked = query;
  say("");
  byId("heading").textContent = "Nearest";
  byId("shuffle").hidden = true;
  byId("hits").setAttribute("aria-busy", "true");
  try {
    const parameters = { k: HITS, label: byId("label").value.trim(), false_matches: byId("rate").value, crop: await cropText() };
    const answer = asked.file
      ? await ask(address("/api/search", parameters), { method: "POST", body: asked.file, signal })
      : await ask(address(`/api/similar/${asked.id}`, parameters), { signal });
    if (signal.aborted) return;
    showAnswer(answer);
    // The button that was pressed is gone with the hits before: those who read by keyboard go on at the new ones.
    if (document.activeElement === document.body) byId("results").focus({ preventScroll: true });
  } catch (error) {
    if (signal.aborted) return;
    byId("hits").replaceChildren();
    say("", error.message);
  } finally {
    if (!signal.aborted) byId("hits").removeAttribute("aria-busy");
  }
}

/** The crop in pixels of the file: of a catalogue's picture the browser may see a smaller copy. */
async function cropText() {
  if (!crop.frame) return null;
  const asked = query;
  await image.decode().catch(() => {});
  if (asked.file) return crop.text();
  const { width, height } = await ask(`/api/size/${asked.id}`);
  return crop.text(width, height);
}

function say(text, error = "") {
  byId("verdict").textContent = text;
  byId("error").textContent = error;
  byId("error").hidden = !error;
}

// The hits

function showAnswer({ hits, names, threshold }) {
  const matches = hits.filter((hit) => hit.match !== false && !hit.itself).length;
  if (!hits.length) say("Nothing found: no picture of this label.");
  else if (threshold === null) say("This model does not know how near a match is.");
  else if (!matches) say("No match: nothing here is near enough to be of the same kind.");
  else say(names.slice(0, 3).map(({ label, votes }) => `${label}: ${votes} of ${matches}`).join(" · ") || `${matches} near enough to be of the same kind.`);
  byId("rate").disabled = threshold === null;
  const items = [];
  hits.forEach((hit, place) => {
    if (hit.match === false && (place === 0 || hits[place - 1].match)) {
      items.push(element("li", { class: "line", id: "no-match" }, `No match beyond ${threshold.toFixed(3)}`));
    }
    items.push(card(hit));
  });
  byId("hits").replaceChildren(...items);
  map.mark(hits.map((hit) => hit.id));
}

function card(hit) {
  const name = hit.label ?? hit.path ?? "a picture";
  const open = element("button", { type: "button", class: "open", "aria-label": `Search from ${name}` },
    element("img", { src: thumbnail(hit.id), alt: name, loading: "lazy", width: 160, height: 160 }),
    element("span", { class: "text" }, element("span", { class: "label" }, hit.label ?? ""),
      element("span", { class: "path" }, hit.path ?? "")));
  open.addEventListener("click", () => go(hit.id));
  const item = element("li", { class: "card hit", "data-id": hit.id }, open);
  if (hit.distance !== undefined) {
    const reason = element("button", { type: "button", "aria-label": `Why ${name}` }, "Why");
    reason.addEventListener("click", () => explain(hit));
    item.append(element("div", { class: "foot" }, element("span", { class: "distance" }, hit.distance.toFixed(3)), reason));
  }
  return item;
}

async function explain(hit) {
  try {
    await why.open({ ...query, crop: await cropText(), source: await meant() }, hit);
  } catch (error) {
    say("", error.message);
  }
}

/** The address of what is meant: the query, or the part of it in the frame. */
async function meant() {
  if (!crop.frame) return query.source;
  const { x, y, w, h } = crop.frame;
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const part = new OffscreenCanvas(Math.max(1, w * width), Math.max(1, h * height));
  part.getContext("2d").drawImage(image, -x * width, -y * height);
  return URL.createObjectURL(await part.convertToBlob());
}

// The catalogue

function loaded({ names, total }) {
  byId("about").textContent = `${whole(total)} pictures, ${whole(names.length)} labels`;
  byId("labels").replaceChildren(...names.map((name) => element("option", { value: name })));
  if (!query && !byId("hits").children.length) browse();
}

/** Some pictures of the catalogue, by lot, to begin from. */
function browse() {
  const label = byId("label").value.trim();
  const among = map.ids.map((_, i) => i).filter((i) => !label || map.labelOf(i) === label);
  const chosen = [];
  while (chosen.length < HITS && among.length) chosen.push(...among.splice(Math.floor(Math.random() * among.length), 1));
  byId("heading").textContent = "In the catalogue";
  byId("shuffle").hidden = false;
  say(map.ids.length ? (chosen.length ? "" : "Nothing found: no picture of this label.") : "The catalogue is empty.");
  byId("hits").replaceChildren(...chosen.map((i) => card({ id: map.ids[i], label: map.labelOf(i) })));
  map.mark([]);
}

function showSet(points) {
  byId("set").hidden = !points.length;
  if (!points.length) return;
  const counts = new Map();
  for (const i of points) counts.set(map.labelOf(i), (counts.get(map.labelOf(i)) ?? 0) + 1);
  const first = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 4).map(([label, n]) => `${label ?? "no label"} ${n}`);
  byId("set-heading").textContent = `${whole(points.length)} pictures: ${first.join(", ")}${counts.size > 4 ? ", …" : ""}`;
  byId("set-pictures").replaceChildren(...points.slice(0, SET).map((i) => {
    const name = map.labelOf(i) ?? "a picture";
    const open = element("button", { type: "button", "aria-label": `Search from ${name}` },
      element("img", { src: thumbnail(map.ids[i]), alt: name, loading: "lazy", width: 72, height: 72 }));
    open.addEventListener("click", () => go(map.ids[i]));
    return element("li", {}, open);
  }));
}

// Hands

const drop = byId("drop");
byId("file").addEventListener("change", (event) => useFile(event.target.files[0]));
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) useFile(event.dataTransfer.files[0]);
  else say("", "That was no file: drop a picture from your computer.");
});
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
  if (file) useFile(file);
});
image.addEventListener("load", () => crop.draw());
image.addEventListener("error", () => { byId("query-name").textContent = `${query?.name ?? ""}: no preview`; });
byId("uncrop").addEventListener("click", () => crop.set(null));
byId("clear").addEventListener("click", clear);
byId("label").addEventListener("change", search);
byId("rate").addEventListener("change", search);
byId("shuffle").addEventListener("click", browse);
byId("unset").addEventListener("click", () => { byId("set").hidden = true; map.mark([]); });
byId("lasso").addEventListener("click", (event) => {
  map.drawing = !map.drawing;
  map.canvas.classList.toggle("drawing", map.drawing);
  event.currentTarget.setAttribute("aria-pressed", map.drawing);
});
byId("zoom-in").addEventListener("click", () => map.zoomBy(1.6));
byId("zoom-out").addEventListener("click", () => map.zoomBy(1 / 1.6));
byId("whole").addEventListener("click", () => map.reset());
addEventListener("hashchange", follow);

follow();
map.load();
