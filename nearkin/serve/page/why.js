import { ask, address, picture } from "/assets/api.js";
import { byId } from "/assets/dom.js";

/** The dialog that shows which regions of the query and of a hit carry their similarity. */
export class Why {
  constructor() {
    this.dialog = byId("why");
    byId("why-close").addEventListener("click", () => this.dialog.close());
  }

  /** `query` is { id } or { file }, with `crop`, and `source`, the address of what is meant by it. */
  async open(query, hit) {
    const images = [byId("why-query"), byId("why-hit")];
    const canvases = [...this.dialog.querySelectorAll("canvas.heat")];
    for (const canvas of canvases) canvas.width = canvas.height = 0;
    images[0].src = query.source;
    images[1].src = picture(hit.id);
    byId("why-name").textContent = hit.label ?? hit.path;
    byId("why-state").textContent = "Looking …";
    this.dialog.showModal();
    try {
      const path = address(`/api/why/${hit.id}`, { from: query.id, crop: query.crop });
      const [found] = await Promise.all([
        ask(path, { method: "POST", body: query.id ? undefined : query.file }),
        ...images.map((image) => image.decode()),
      ]);
      byId("why-state").textContent = "";
      paint(canvases[0], images[0], found.query);
      paint(canvases[1], images[1], found.hit);
      this.dialog.dataset.ready = hit.id;
    } catch (error) {
      byId("why-state").textContent = error.message;
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
    pixels.data.set([255, Math.round(190 * (1 - value) + 40), 30, Math.round(190 * value ** 1.3)], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  const [left, top, width, height] = region;
  const large = canvas.getContext("2d");
  large.imageSmoothingQuality = "high";
  large.drawImage(small, left * canvas.width, top * canvas.height, width * canvas.width, height * canvas.height);
}
