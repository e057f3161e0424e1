import { changed, thumbnail } from "/assets/api.js";
import { byId, clamp, count, darkMode, whole } from "/assets/dom.js";
import { Points } from "/assets/points.js";

const ZOOM = { least: 1, most: 200, button: 1.6 };
const REACH = 14; // pixels around a point that count as on it
const CLICK = 5; // pixels a pointer may slip and still click
const REST = 80; // ms on a point until its picture is asked for: a pointer passes over many
const RING = { share: 0.25, step: 1.25, least: 10 }; // its first radius, as a share of the lesser side; steps; pixels
const POLL = 3000; // ms until the map is asked for again, while only the quick one is there

/**
 * All pictures as points on a canvas. `view` is the point of the map in the middle of the canvas, and the zoom;
 * places span [-1, 1]; pixels are CSS pixels from the canvas's top left. What changes while the points stay (a lasso,
 * the point under the pointer) is drawn on a second canvas that lies over the first.
 */
export class PictureMap {
  view = { x: 0, y: 0, zoom: 1 };
  ids = [];
  found = []; // ids of what is marked
  marked = new Set(); // indices: what is found or in a set stands out
  hovered = null;
  drawing = false; // whether the next drag draws a lasso
  lasso = null; // the path that is being drawn, in places of the map
  ring = null; // radius in pixels of the lasso that keys move

  constructor({ onLoad, onPick, onSet }) {
    Object.assign(this, { onLoad, onPick, onSet });
    Object.assign(this, { canvas: byId("map"), over: byId("map-over"), tooltip: byId("tooltip"), said: byId("map-said") });
    this.points = new Points(this.canvas);
    this.listen();
    this.touch();
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    darkMode.addEventListener("change", () => { this.points.color(); this.invalidate(); });
  }

  async load() {
    try {
      const answer = await changed("/api/map", this.tag);
      if (answer) {
        this.tag = answer.tag;
        this.show(answer.found);
      }
    } catch (error) {
      byId("map-note").textContent = error.message;
    }
    setTimeout(() => this.load(), POLL * (document.hidden ? 10 : this.quality === "good" ? 5 : 1));
  }

  show({ quality, total, ids, x, y, labels, names }) {
    Object.assign(this, { quality, total, ids, labels, names });
    this.x = Float32Array.from(x);
    this.y = Float32Array.from(y, (value) => -value);
    this.points.set(this);
    this.index = new Map(ids.map((id, i) => [id, i]));
    this.hover(null);
    this.mark(this.found);
    const part = total > ids.length ? `${whole(ids.length)} of ${count(total, "picture")}, by lot` : count(total, "picture");
    byId("map-note").textContent = quality === "good"
      ? `${part}. What is near is alike; drag to move, scroll to zoom, Shift and drag to lasso.`
      : `${part}. A quick projection; the better map is being made.`;
    this.canvas.dataset.quality = quality;
    this.canvas.dataset.points = ids.length;
    this.onLoad(this);
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

  scale(zoom = this.view.zoom) {
    return 0.46 * Math.min(this.width, this.height) * zoom;
  }

  toPixels(x, y) {
    const scale = this.scale();
    return [(x - this.view.x) * scale + this.width / 2, (y - this.view.y) * scale + this.height / 2];
  }

  toMap(px, py) {
    const scale = this.scale();
    return [(px - this.width / 2) / scale + this.view.x, (py - this.height / 2) / scale + this.view.y];
  }

  setView({ x, y, zoom }) {
    this.view = { x: clamp(x, -1.2, 1.2), y: clamp(y, -1.2, 1.2), zoom: clamp(zoom, ZOOM.least, ZOOM.most) };
    this.touch();
    this.invalidate();
  }

  /** While the whole map shows, a finger that moves up or down on it scrolls the page. */
  touch() {
    this.canvas.style.touchAction = this.view.zoom > ZOOM.least || this.drawing ? "none" : "pan-y";
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

  // Sets

  /** Draw a lasso next; with keys it is a ring in the middle, beneath which the map moves. */
  draws(drawing, keys = false) {
    this.drawing = drawing;
    this.lasso = null;
    this.ring = drawing && keys ? RING.share * Math.min(this.width, this.height) : null;
    this.canvas.classList.toggle("drawing", drawing);
    byId("lasso").setAttribute("aria-pressed", drawing);
    this.said.textContent = drawing ? "Draw around the pictures that you mean." : "";
    if (this.ring) this.sizeRing(1);
    this.touch();
    this.invalidate(false);
  }

  sizeRing(factor) {
    this.ring = clamp(this.ring * factor, RING.least, Math.min(this.width, this.height) / 2 - 2);
    this.said.textContent = `${count(this.inside(this.around()).length, "picture")} in the ring.`;
    this.invalidate(false);
  }

  /** The ring as a path of places. */
  around() {
    return Array.from({ length: 72 }, (_, i) => {
      const angle = (2 * Math.PI * i) / 72;
      return this.toMap(this.width / 2 + this.ring * Math.cos(angle), this.height / 2 + this.ring * Math.sin(angle));
    });
  }

  take(path) {
    const found = this.inside(path);
    this.draws(false);
    this.said.textContent = found.length ? `${count(found.length, "picture")} taken, below the map.` : "Nothing was inside.";
    this.mark(found.map((i) => this.ids[i]));
    this.onSet(found);
  }

  // Hands

  listen() {
    const { canvas } = this;
    const held = new Map();
    let slipped = 0;
    canvas.addEventListener("wheel", (event) => {
      if (event.deltaY > 0 && this.view.zoom === ZOOM.least) return; // all of the map shows: let the page scroll
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : event.deltaMode ? 0.05 : 0.0018)), event.offsetX, event.offsetY);
      this.hover(this.pointAt(event.offsetX, event.offsetY));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, [event.offsetX, event.offsetY]);
      slipped = held.size === 1 ? 0 : CLICK + 1;
      if (this.ring) this.draws(true);
      this.lasso = held.size === 1 && (this.drawing || event.shiftKey) ? [this.toMap(event.offsetX, event.offsetY)] : null;
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
        this.invalidate(false);
      } else if (other) {
        const gap = (from) => Math.hypot(from[0] - other[0], from[1] - other[1]) || 1;
        this.zoomBy(gap(now) / gap(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      } else this.moveBy(now[0] - before[0], now[1] - before[1]);
    });
    const up = (event) => {
      if (!held.delete(event.pointerId)) return;
      const path = this.lasso;
      this.lasso = null;
      this.invalidate(false);
      if (event.type === "pointercancel") return;
      if (path && slipped > CLICK) this.take(path);
      else if (slipped <= CLICK) {
        const point = this.pointAt(event.offsetX, event.offsetY, event.pointerType === "touch" ? 2 * REACH : REACH);
        if (point !== null) this.onPick(this.ids[point]);
      }
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("blur", () => this.hover(null));
    canvas.addEventListener("keydown", (event) => this.press(event));
    byId("lasso").addEventListener("click", (event) => {
      const keys = event.detail === 0; // no pointer clicked
      this.draws(!this.drawing, keys);
      if (this.drawing && keys) canvas.focus();
    });
    byId("zoom-in").addEventListener("click", () => this.zoomBy(ZOOM.button));
    byId("zoom-out").addEventListener("click", () => this.zoomBy(1 / ZOOM.button));
    byId("whole").addEventListener("click", () => this.reset());
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = 0.15 * Math.min(this.width, this.height);
    const views = {
      ArrowLeft: () => this.moveBy(far, 0), ArrowRight: () => this.moveBy(-far, 0),
      ArrowUp: () => this.moveBy(0, far), ArrowDown: () => this.moveBy(0, -far),
      "+": () => this.zoomBy(ZOOM.button), "=": () => this.zoomBy(ZOOM.button), "-": () => this.zoomBy(1 / ZOOM.button),
      0: () => this.reset(),
    };
    const others = {
      l: () => this.draws(!this.ring, true),
      Enter: () => {
        if (this.ring) this.take(this.around());
        else if (this.hovered !== null) this.onPick(this.ids[this.hovered]);
      },
      Escape: () => this.draws(false),
    };
    const sizes = { ArrowUp: RING.step, ArrowDown: 1 / RING.step };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (this.ring && event.shiftKey && sizes[key]) this.sizeRing(sizes[key]);
    else if (views[key]) {
      views[key]();
      if (this.ring) this.sizeRing(1);
      else this.hover(this.pointAt(this.width / 2, this.height / 2, 0.4 * Math.min(this.width, this.height)));
    } else if (others[key]) {
      others[key]();
    } else return;
    event.preventDefault();
  }

  hover(point) {
    const { canvas, tooltip } = this;
    canvas.classList.toggle("pointing", point !== null);
    if (point === this.hovered) return;
    this.hovered = point;
    tooltip.hidden = point === null;
    clearTimeout(this.resting);
    const [image, text] = tooltip.children;
    image.removeAttribute("src");
    if (point !== null) {
      this.resting = setTimeout(() => { image.src = thumbnail(this.ids[point]); }, REST);
      text.textContent = this.labelOf(point) ?? "no label";
    }
    this.invalidate(false);
  }

  // Drawing

  resize() {
    Object.assign(this, { width: this.canvas.clientWidth, height: this.canvas.clientHeight });
    for (const canvas of [this.canvas, this.over]) {
      canvas.width = Math.round(this.width * devicePixelRatio);
      canvas.height = Math.round(this.height * devicePixelRatio);
    }
    this.invalidate();
  }

  /** Draw in the next frame: everything, or only what lies over the points. */
  invalidate(points = true) {
    this.stale ||= points;
    this.pending ??= requestAnimationFrame(() => {
      this.pending = null;
      if (!this.width) return;
      if (this.stale) this.points.draw(this.scale(), ...this.toPixels(0, 0), this.view.zoom, this.marked);
      this.stale = false;
      this.drawOver();
      this.canvas.dataset.zoom = this.view.zoom.toFixed(3); // for whoever cannot see the canvas
    });
  }

  drawOver() {
    const context = this.over.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.strokeStyle = getComputedStyle(this.canvas).color;
    if (this.hovered !== null) {
      const [x, y] = this.toPixels(this.x[this.hovered], this.y[this.hovered]);
      const side = this.points.side(this.view.zoom) + 6;
      context.lineWidth = 2;
      context.setLineDash([]);
      context.strokeRect(x - side / 2, y - side / 2, side, side);
      this.tooltip.style.left = `${clamp(x + 16, 4, this.width - 150)}px`;
      this.tooltip.style.top = `${clamp(y - 80, 4, this.height - 190)}px`;
    }
    const path = this.lasso ?? (this.ring ? this.around() : []);
    if (path.length) {
      context.beginPath();
      for (const place of path) context.lineTo(...this.toPixels(...place));
      context.closePath();
      context.lineWidth = 1.5;
      context.setLineDash([5, 4]);
      context.stroke();
    }
  }
}
