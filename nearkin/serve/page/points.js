import { clamp, darkMode } from "/assets/dom.js";

const FADED = 0x50000000; // the alpha of what does not stand out

/** Points as squares of pixels that are set by hand: at 50,000 of them ten times as fast as a path for each. */
export class Points {
  colors = new Uint32Array();

  constructor(canvas) {
    this.context = canvas.getContext("2d");
  }

  /** Places are `x` and `y`; `labels` are indices into names, or -1. */
  set({ x, y, labels, names }) {
    Object.assign(this, { x, y, labels, names });
    this.color();
  }

  /** Colors as the pixels of an ImageData have them. */
  color() {
    const probe = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const pixel = (color) => {
      probe.fillStyle = color;
      probe.fillRect(0, 0, 1, 1);
      return new Uint32Array(probe.getImageData(0, 0, 1, 1).data.buffer)[0];
    };
    const none = pixel(darkMode.matches ? "#8b8d94" : "#77757a");
    const byLabel = (this.names ?? []).map((_, label) => pixel(labelColor(label)));
    this.colors = Uint32Array.from(this.labels ?? [], (label) => (label < 0 ? none : byLabel[label]));
  }

  /** Side of a point in CSS pixels. */
  side(zoom) {
    return clamp(1.6 + 1.1 * Math.log2(zoom) + 220 / Math.sqrt(this.colors.length + 400), 2, 9);
  }

  /** Draw all, those that are marked above the others; a place p lies at p * scale + left (or top), in CSS pixels. */
  draw(scale, left, top, zoom, marked) {
    const { context } = this;
    const { width, height } = context.canvas;
    if (this.image?.width !== width || this.image.height !== height) {
      this.image = context.createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    const { x, y, colors, pixels } = this;
    pixels.fill(0);
    const ratio = devicePixelRatio;
    const [across, right, down] = [scale * ratio, left * ratio, top * ratio];
    const square = (i, side, color) => {
      const px = Math.round(x[i] * across + right - side / 2);
      const py = Math.round(y[i] * across + down - side / 2);
      if (px <= -side || py <= -side || px >= width || py >= height) return;
      const [from, to, end] = [Math.max(px, 0), Math.min(px + side, width), Math.min(py + side, height) * width];
      for (let row = Math.max(py, 0) * width; row < end; row += width) {
        for (let at = row + from; at < row + to; at += 1) pixels[at] = color;
      }
    };
    const side = Math.round(this.side(zoom) * ratio);
    const faded = marked.size > 0;
    for (let i = 0; i < colors.length; i += 1) square(i, side, faded ? (colors[i] & 0xffffff) | FADED : colors[i]);
    for (const i of marked) square(i, side + Math.round(3 * ratio), colors[i]);
    context.putImageData(this.image, 0, 0);
  }
}

/** Hues far apart for consecutive labels, in three lightnesses. */
function labelColor(label) {
  const lightness = (darkMode.matches ? [0.74, 0.64, 0.84] : [0.6, 0.7, 0.48])[label % 3];
  return `oklch(${lightness} ${[0.17, 0.13, 0.14][label % 3]} ${((label * 137.508 + 25) % 360).toFixed(1)})`;
}
