import { address, ask, picture, Turns } from "/assets/api.js";
import { Crop, inPixels } from "/assets/crop.js";
import { byId, count, element, lessMotion, shape, whole } from "/assets/dom.js";
import { card, items, nothing, small, verdict } from "/assets/hits.js";
import { PictureMap } from "/assets/map.js";
import { Why } from "/assets/why.js";

const HITS = 24;
const SET = 120; // pictures of a set that are shown

let query = null; // { file } or { id }, its name, the address of its picture, and its size once that is known
const uploads = []; // since the page was opened: Back leads to them, too

const image = byId("query");
const crop = new Crop(byId("crop"), byId("crop-said"), () => {
  byId("uncrop").hidden = !crop.frame;
  search();
});
const why = new Why();
const map = new PictureMap({ onLoad: loaded, onPick: go, onSet: showSet });
const searches = new Turns();

// The query

function useFile(file) {
  if (!file) return;
  uploads.push(file);
  history.pushState({ upload: uploads.length - 1 }, "", location.pathname);
  follow();
}

/** Search from a picture of the catalogue; the address tells which. */
function go(id) {
  if (location.hash === `#${id}`) return;
  history.pushState(null, "", `#${id}`);
  follow();
}

function follow() {
  const file = uploads[history.state?.upload];
  const id = location.hash.slice(1);
  if (file) use({ file, name: file.name || "pasted picture", source: URL.createObjectURL(file) });
  else if (/^[0-9a-f]{32}$/.test(id)) use({ id, name: "from the catalogue", source: picture(id) });
  else use(null);
}

function use(next) {
  if (query?.file) URL.revokeObjectURL(query.source);
  query = next;
  crop.show(null);
  byId("uncrop").hidden = true;
  byId("empty").hidden = Boolean(query);
  byId("asked").hidden = !query;
  image.parentElement.hidden = true; // until there is something to see
  if (query) {
    byId("query-name").textContent = query.name;
    image.alt = `The query, ${query.name}`;
    image.src = query.source;
    scrollTo({ top: 0, behavior: lessMotion.matches ? "auto" : "smooth" });
  } else image.removeAttribute("src");
  search();
}

/** What the browser cannot show (TIFF, PPM), the server can. */
async function preview() {
  const asked = query;
  try {
    if (!asked.file) throw new Error("its file is gone or damaged");
    const { image: source, ...size } = await ask("/api/preview", { method: "POST", body: asked.file });
    Object.assign(asked, { source, size });
    if (query === asked) image.src = source;
  } catch (error) {
    if (query === asked) byId("query-name").textContent = `${asked.name} cannot be shown: ${error.message}`;
  }
}

async function search() {
  const signal = searches.next();
  say("");
  byId("hits").removeAttribute("aria-busy");
  if (!query) {
    browse();
    return;
  }
  const asked = query;
  byId("heading").textContent = "Nearest";
  byId("shuffle").hidden = true;
  byId("hits").setAttribute("aria-busy", "true");
  try {
    const parameters = { k: HITS, label: byId("label").value.trim(), false_matches: byId("rate").value, crop: await cropText() };
    signal.throwIfAborted();
    const answer = asked.file
      ? await ask(address("/api/search", parameters), { method: "POST", body: asked.file, signal })
      : await ask(address(`/api/similar/${asked.id}`, parameters), { signal });
    showAnswer(answer, parameters.label);
    // The button that was pressed is gone with the hits before: those who read by keyboard go on at the new ones.
    if (document.activeElement === document.body) byId("heading").focus({ preventScroll: true });
  } catch (error) {
    if (signal.aborted) return;
    byId("hits").replaceChildren();
    map.mark([]);
    say("", error.message);
  }
  byId("hits").removeAttribute("aria-busy");
}

/** The frame in pixels of the file, of which the browser may see a smaller copy. */
async function cropText() {
  const { frame } = crop;
  if (!frame) return null;
  const asked = query;
  asked.size ??= asked.file ? { width: image.naturalWidth, height: image.naturalHeight } : await ask(`/api/size/${asked.id}`);
  return inPixels(frame, asked.size);
}

function say(text, error = "") {
  byId("verdict").textContent = text;
  byId("basis").textContent = "";
  byId("error").textContent = error;
  byId("error").hidden = !error;
}

function showAnswer(answer, label) {
  say(verdict(answer, label));
  byId("basis").textContent = answer.hits.length ? answer.certainty : "";
  byId("rate").disabled = answer.threshold === null;
  byId("hits").replaceChildren(...items(answer, go, explain));
  map.mark(answer.hits.map((hit) => hit.id));
}

function explain(hit) {
  why.open(hit, async () => ({ ...query, crop: await cropText(), source: meant() }));
}

/** The address of what is meant: the query, or the part of it in the frame. */
function meant() {
  if (!crop.frame) return query.source;
  const { x, y, w, h } = crop.frame;
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const part = element("canvas", { width: Math.ceil(w * width), height: Math.ceil(h * height) });
  part.getContext("2d").drawImage(image, -x * width, -y * height);
  return part.toDataURL();
}

// The catalogue

function loaded({ names, total }) {
  byId("about").textContent = `${count(total, "picture")}, ${count(names.length, "label")}`;
  byId("labels").replaceChildren(...names.map((name) => element("option", { value: name })));
  if (!query && !byId("hits").children.length) browse();
}

/** Some pictures of the catalogue, by lot, to begin from. */
function browse() {
  const label = byId("label").value.trim();
  const among = [...map.ids.keys()].filter((i) => !label || map.labelOf(i) === label);
  map.mark(label ? among.map((i) => map.ids[i]) : []);
  const chosen = [];
  while (chosen.length < HITS && among.length) chosen.push(...among.splice(Math.floor(Math.random() * among.length), 1));
  byId("heading").textContent = "In the catalogue";
  byId("shuffle").hidden = false;
  if (map.quality) say(chosen.length ? "" : nothing(label));
  byId("hits").replaceChildren(...chosen.map((i, place) => card({ id: map.ids[i], label: map.labelOf(i), name: named(i, place) }, go)));
}

function showSet(points) {
  byId("set").hidden = !points.length;
  if (!points.length) return;
  const counts = new Map();
  for (const i of points) counts.set(map.labelOf(i), (counts.get(map.labelOf(i)) ?? 0) + 1);
  const first = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 4).map(([label, n]) => `${label ?? "no label"} ${whole(n)}`);
  const part = points.length > SET ? `, ${SET} of them shown` : "";
  byId("set-heading").textContent = `${count(points.length, "picture")}: ${first.join(", ")}${counts.size > 4 ? ", …" : ""}${part}`;
  byId("set-pictures").replaceChildren(...points.slice(0, SET).map((i, place) => small(map.ids[i], named(i, place), go)));
}

/** A name of its own for each of some pictures. */
const named = (i, place) => `picture ${place + 1}, ${map.labelOf(i) ?? "no label"}`;

// Hands

const drop = byId("drop");
byId("file").addEventListener("change", ({ target }) => {
  useFile(target.files[0]);
  target.value = ""; // or the same file could not be chosen again
});
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
  else if (!event.target.closest("input")) say("", "The clipboard holds no picture.");
});
image.addEventListener("load", () => {
  shape(image);
  image.parentElement.hidden = false;
});
image.addEventListener("error", preview);
for (const link of document.querySelectorAll(".skip")) {
  link.addEventListener("click", (event) => {
    event.preventDefault(); // the address is the query's
    document.querySelector(link.getAttribute("href")).focus();
  });
}
byId("uncrop").addEventListener("click", () => crop.remove());
byId("clear").addEventListener("click", () => {
  history.pushState(null, "", location.pathname);
  follow();
});
byId("label").addEventListener("change", search);
byId("rate").addEventListener("change", search);
byId("shuffle").addEventListener("click", browse);
byId("unset").addEventListener("click", () => { byId("set").hidden = true; map.mark([]); });
addEventListener("popstate", follow);

follow();
map.load();
