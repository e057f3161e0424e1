import { ask, thumbnail } from "/assets/api.js";
import { byId, clamp, darkMode, whole } from "/assets/dom.js";

const ZOOM = { least: 1, most: 200, button: 1.6 };
const REACH = 14; // pixels around a point that count as on it
const CLICK = 5; // pixels a pointer may slip and still click
const POLL = 3000; // ms until the map is asked for again, while only the quick one is there

/**
 * All pictures as points on a canvas. `view` is the point of the map in the middle of the canvas, and the zoom;
 * places span [-1, 1]; pixels are CSS pixels from the canvas's top left.
 */
export class PictureMap {
  view = { x: 0, y: 0, zoom: 1 };
  ids = [];
  found = []; // ids of what is marked
  marked = new Set(); // indices: what is found or in the lasso stands out
  hovered = null;
  lasso = null; // the path that is being drawn, in places of the map
  drawing = false; // whether the next drag draws a lasso

  constructor(canvas, tooltip, { onLoad, onPick, onSet }) {
    Object.assign(this, { canvas, tooltip, onLoad, onPick, onSet });
    this.listen();
    new ResizeObserver(() => this.invalidate()).observe(canvas);
    darkMode.addEventListener("change", () => { this.color(); this.invalidate(); });
  }

  async load() {
    let again = POLL;
    try {
      const found = await ask("/api/map");
      if (found.quality === "good") again = 5 * POLL;
      const contents = JSON.stringify([found.quality, found.total, found.names, found.labels, found.ids[0], found.x[0]]);
      if (contents !== this.contents) this.show(found);
      this.contents = contents;
    } catch (error) {
      byId("map-note").textContent = error.message;
    }
    setTimeout(() => this.load(), document.hidden ? 10 * POLL : again);
  }

  show({ quality, total, ids, x, y, labels, names }) {
    Object.assign(this, { quality, total, ids, labels, names });
    this.x = Float32Array.from(x);
    this.y = Float32Array.from(y, (value) => -value);
    this.index = new Map(ids.map((id, i) => [id, i]));
    this.hover(null);
    this.mark(this.found);
    this.color();
    const part = total > ids.length ? `${whole(ids.length)} of ${whole(total)} pictures, by lot` : `${whole(total)} pictures`;
    byId("map-note").textContent = quality === "good"
      ? `${part}. What is near is alike; drag to move, scroll to zoom, Shift and drag to lasso.`
      : `${part}. A quick projection; the better map is being made.`;
    this.canvas.dataset.quality = quality;
    this.canvas.dataset.points = ids.length;
    this.onLoad(this);
    this.invalidate();
  }

  /** Colors as the pixels of an ImageData have them. */
  color() {
    const probe = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const byLabel = (this.names ?? []).map((_, label) => {
      probe.fillStyle = labelColor(label);
      probe.fillRect(0, 0, 1, 1);
      return new Uint32Array(probe.getImageData(0, 0, 1, 1).data.buffer)[0];
    });
    probe.fillStyle = darkMode.matches ? "#8b8d94" : "#77757a";
    probe.fillRect(0, 0, 1, 1);
    const none = new Uint32Array(probe.getImageData(0, 0, 1, 1).data.buffer)[0];
    this.colors = Uint32Array.from(this.labels ?? [], (label) => (label < 0 ? none : byLabel[label]));
  }

  labelOf(i) {
    return this.labels[i] < 0 ? null : this.names[this.labels[i]];
  }

  mark(ids) {
    this.found = ids;
    this.marked = new Set(ids.map((id) => this.index?.get(id)).filter((i) => i !== undefined));
    this.invalidate();
  }

  // Geometry

  get width() { return this.canvas.clientWidth; }
  get height() { return this.canvas.clientHeight; }

  scale(zoom = this.view.zoom) {
    return 0.46 * Math.min(this.width, this.height) * zoom;
  }

  toPixels(i) {
    const scale = this.scale();
    return [(this.x[i] - this.view.x) * scale + this.width / 2, (this.y[i] - this.view.y) * scale + this.height / 2];
  }

  toMap(px, py) {
    const scale = this.scale();
    return [(px - this.width / 2) / scale + this.view.x, (py - this.height / 2) / scale + this.view.y];
  }

  setView({ x, y, zoom }) {
    this.view = { x: clamp(x, -1.2, 1.2), y: clamp(y, -1.2, 1.2), zoom: clamp(zoom, ZOOM.least, ZOOM.most) };
    this.invalidate();
  }

  zoomBy(factor, px = this.width / 2, py = this.height / 2) {
    const [mx, my] = this.toMap(px, py);
    const zoom = clamp(this.view.zoom * factor, ZOOM.least, ZOOM.most);
    const scale = this.scale(zoom);
    this.setView({ x: mx - (px - this.width / 2) / scale, y: my - (py - this.height / 2) / scale, zoom });
  }

  moveBy(dx, dy) {
    const scale = this.scale();
    this.setView({ ...this.view, x: this.view.x - dx / scale, y: this.view.y - dy / scale });
  }

  reset() {
    this.setView({ x: 0, y: 0, zoom: 1 });
  }

  pointAt(px, py, reach = REACH) {
    const [mx, my] = this.toMap(px, py);
    let best = null;
    let least = (reach / this.scale()) ** 2;
    for (let i = 0; i < this.ids.length; i += 1) {
      const squared = (this.x[i] - mx) ** 2 + (this.y[i] - my) ** 2;
      if (squared <= least) [best, least] = [i, squared];
    }
    return best;
  }

  /** The points inside a closed path of places. */
  inside(path) {
    const found = [];
    for (let i = 0; i < this.ids.length; i += 1) {
      let within = false;
      for (let a = 0, b = path.length - 1; a < path.length; b = a, a += 1) {
        const [ax, ay] = path[a];
        const [bx, by] = path[b];
        if (ay > this.y[i] !== by > this.y[i] && this.x[i] < ((bx - ax) * (this.y[i] - ay)) / (by - ay) + ax) within = !within;
      }
      if (within) found.push(i);
    }
    return found;
  }

  // Hands

  listen() {
    const { canvas } = this;
    const held = new Map();
    let slipped = 0;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : event.deltaMode ? 0.05 : 0.0018)), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, [event.offsetX, event.offsetY]);
      slipped = held.size === 1 ? 0 : CLICK + 1;
      if (held.size === 1 && (this.drawing || event.shiftKey)) this.lasso = [this.toMap(event.offsetX, event.offsetY)];
    });
    canvas.addEventListener("pointermove", (event) => {
      const now = [event.offsetX, event.offsetY];
      const before = held.get(event.pointerId);
      if (!before) {
        this.hover(this.pointAt(...now));
        return;
      }
      const other = [...held].find(([id]) => id !== event.pointerId)?.[1];
      held.set(event.pointerId, now);
      slipped += Math.hypot(now[0] - before[0], now[1] - before[1]);
      if (slipped <= CLICK) return;
      this.hover(null);
      if (this.lasso) {
        this.lasso.push(this.toMap(...now));
        this.invalidate();
      } else if (other) {
        const gap = (from) => Math.hypot(from[0] - other[0], from[1] - other[1]) || 1;
        this.zoomBy(gap(now) / gap(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      } else this.moveBy(now[0] - before[0], now[1] - before[1]);
    });
    const up = (event) => {
      if (!held.delete(event.pointerId)) return;
      const path = this.lasso;
      this.lasso = null;
      this.invalidate();
      if (event.type === "pointercancel") return;
      if (path && slipped > CLICK) {
        const found = this.inside(path);
        this.mark(found.map((i) => this.ids[i]));
        this.onSet(found);
      } else if (slipped <= CLICK) {
        const point = this.pointAt(event.offsetX, event.offsetY, event.pointerType === "touch" ? 2 * REACH : REACH);
        if (point !== null) this.onPick(this.ids[point]);
      }
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("blur", () => this.hover(null));
    canvas.addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = 0.15 * Math.min(this.width, this.height);
    const actions = {
      ArrowLeft: () => this.moveBy(far, 0), ArrowRight: () => this.moveBy(-far, 0),
      ArrowUp: () => this.moveBy(0, far), ArrowDown: () => this.moveBy(0, -far),
      "+": () => this.zoomBy(ZOOM.button), "=": () => this.zoomBy(ZOOM.button), "-": () => this.zoomBy(1 / ZOOM.button),
      0: () => this.reset(),
      Enter: () => { if (this.hovered !== null) this.onPick(this.ids[this.hovered]); },
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
    if (event.key !== "Enter") this.hover(this.pointAt(this.width / 2, this.height / 2, 0.4 * Math.min(this.width, this.height)));
  }

  hover(point) {
    const { canvas, tooltip } = this;
    canvas.classList.toggle("pointing", point !== null);
    if (point === this.hovered) return;
    this.hovered = point;
    tooltip.hidden = point === null;
    if (point !== null) {
      const [image, text] = tooltip.children;
      image.src = thumbnail(this.ids[point]);
      text.textContent = this.labelOf(point) ?? "no label";
      const [x, y] = this.toPixels(point);
      tooltip.style.left = `${clamp(x + 16, 4, this.width - 150)}px`;
      tooltip.style.top = `${clamp(y - 80, 4, this.height - 190)}px`;
    }
    this.invalidate();
  }

  // Drawing

  invalidate() {
    this.pending ??= requestAnimationFrame(() => {
      this.pending = null;
      if (this.width && this.ids.length) this.draw();
    });
  }

  draw() {
    const { canvas } = this;
    const ratio = devicePixelRatio;
    const [width, height] = [Math.round(this.width * ratio), Math.round(this.height * ratio)];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    // Pixels set by hand: at 50,000 points ten times as fast as a path for each.
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const size = Math.round(clamp(1.6 + 1.1 * Math.log2(this.view.zoom) + 220 / Math.sqrt(this.ids.length + 400), 2, 9) * ratio);
    const scale = this.scale() * ratio;
    const [left, top] = [width / 2 - this.view.x * scale - size / 2, height / 2 - this.view.y * scale - size / 2];
    const faded = this.marked.size > 0;
    const put = (i, side, color) => {
      const px = Math.round(this.x[i] * scale + left - (side - size) / 2);
      const py = Math.round(this.y[i] * scale + top - (side - size) / 2);
      if (px <= -side || py <= -side || px >= width || py >= height) return;
      const [x0, x1] = [Math.max(px, 0), Math.min(px + side, width)];
      for (let y = Math.max(py, 0); y < Math.min(py + side, height); y += 1) pixels.fill(color, y * width + x0, y * width + x1);
    };
    for (let i = 0; i < this.ids.length; i += 1) put(i, size, faded ? (this.colors[i] & 0xffffff) | 0x50000000 : this.colors[i]);
    for (const i of this.marked) put(i, size + Math.round(3 * ratio), this.colors[i]);
    context.putImageData(image, 0, 0);
    const ink = getComputedStyle(canvas).color;
    if (this.hovered !== null) {
      const [x, y] = this.toPixels(this.hovered);
      context.strokeStyle = ink;
      context.lineWidth = 2 * ratio;
      context.strokeRect(x * ratio - size / 2 - 3 * ratio, y * ratio - size / 2 - 3 * ratio, size + 6 * ratio, size + 6 * ratio);
    }
    if (this.lasso) {
      context.beginPath();
      for (const [x, y] of this.lasso) context.lineTo(x * scale + width / 2 - this.view.x * scale, y * scale + height / 2 - this.view.y * scale);
      context.closePath();
      context.strokeStyle = ink;
      context.lineWidth = 1.5 * ratio;
      context.setLineDash([5 * ratio, 4 * ratio]);
      context.stroke();
      context.setLineDash([]);
    }
    canvas.dataset.zoom = this.view.zoom.toFixed(3); // for whoever cannot see the canvas
  }
}

/** Hues far apart for consecutive labels, in three lightnesses. */
function labelColor(label) {
  const lightness = (darkMode.matches ? [0.74, 0.64, 0.84] : [0.6, 0.7, 0.48])[label % 3];
  return `oklch(${lightness} ${[0.17, 0.13, 0.14][label % 3]} ${((label * 137.508 + 25) % 360).toFixed(1)})`;
}
