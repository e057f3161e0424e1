import { address, ask, picture, Turns } from "/assets/api.js";
import { byId, shape } from "/assets/dom.js";

/** The dialog that shows which regions of the query and of a hit carry their similarity. */
export class Why {
  turns = new Turns();

  constructor() {
    this.dialog = byId("why");
    byId("why-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => this.turns.stop());
  }

  /** `describe` finds out what is meant by the query: { id } or { file }, `crop`, and `source`, the address of its picture. */
  async open(hit, describe) {
    const signal = this.turns.next();
    const images = [byId("why-query"), byId("why-hit")];
    const canvases = [...this.dialog.querySelectorAll("canvas.heat")];
    for (const canvas of canvases) canvas.width = canvas.height = 0;
    for (const image of images) image.removeAttribute("src");
    delete this.dialog.dataset.ready;
    byId("why-name").textContent = hit.label ?? hit.path;
    byId("why-state").textContent = "Looking …";
    if (!this.dialog.open) this.dialog.showModal();
    try {
      const query = await describe();
      signal.throwIfAborted();
      images[0].src = query.source;
      images[1].src = picture(hit.id);
      const path = address(`/api/why/${hit.id}`, { from: query.id, crop: query.crop });
      const [found] = await Promise.all([
        ask(path, { method: "POST", body: query.id ? undefined : query.file, signal }),
        ...images.map((image) => image.decode().then(() => shape(image))),
      ]);
      signal.throwIfAborted();
      paint(canvases[0], images[0], found.query);
      paint(canvases[1], images[1], found.hit);
      byId("why-state").textContent = `Warmest: ${warmest(found.query)} of the query, ${warmest(found.hit)} of the hit.`;
      this.dialog.dataset.ready = hit.id;
    } catch (error) {
      if (!signal.aborted) byId("why-state").textContent = error.message;
    }
  }
}

/** Lay shares (rows of numbers, 0 to 1) over the region of the picture that they are of. */
function paint(canvas, image, { share, region }) {
  canvas.width = image.clientWidth;
  canvas.height = image.clientHeight;
  const small = new OffscreenCanvas(share[0].length, share.length);
  const context = small.getContext("2d");
  const pixels = context.createImageData(small.width, small.height);
  share.flat().forEach((value, i) => {
    pixels.data.set([255, Math.round(220 * (1 - value) + 20), 20, Math.round(215 * value ** 0.8)], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  const [left, top, width, height] = region;
  const large = canvas.getContext("2d");
  large.imageSmoothingQuality = "high";
  large.drawImage(small, left * canvas.width, top * canvas.height, width * canvas.width, height * canvas.height);
}

/** Where the largest share is, in words. */
function warmest({ share, region }) {
  const flat = share.flat();
  const place = flat.indexOf(Math.max(...flat));
  const [left, top, width, height] = region;
  const x = left + (width * (place % share[0].length + 0.5)) / share[0].length;
  const y = top + (height * (Math.floor(place / share[0].length) + 0.5)) / share.length;
  const third = (value, names) => names[Math.min(2, Math.max(0, Math.floor(3 * value)))];
  const words = [third(y, ["top", "", "bottom"]), third(x, ["left", "", "right"])].filter(Boolean);
  return `the ${words.join(" ") || "middle"}`;
}
