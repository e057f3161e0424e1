const ZOOM = { least: 1, most: 60, button: 1.6 };
const TOOLS = 40; // pixels at the top that the map leaves to the buttons
const CLICK = 5; // pixels a pointer may slip and still click
const REACH = 12; // pixels around a point that count as on it

/**
 * The map of pictures on a canvas: zoom, move, read off, single out classes. The canvas tells what it does by two
 * events: `drawn`, and `hovered` with the index of the point under the pointer, or null.
 *
 * Coordinates: the map spans [-1, 1] in both directions; `view` is its point in the middle of the canvas, and the
 * zoom; pixels are CSS pixels from the canvas's top left.
 */
class PictureMap {
  view = { x: 0, y: 0, zoom: 1 };
  selected = new Set(); // labels; empty shows all classes alike
  hovered = null; // index of a point
  drawAs = "auto"; // "points", "pictures", or pictures once they have room
  shown = new Set(); // points that are drawn

  constructor(canvas, tooltip, { pictures, x, y, sprites }, onSelect) {
    Object.assign(this, { canvas, tooltip, pictures, x, y, sprites, onSelect });
    this.context = canvas.getContext("2d");
    this.labels = pictures.map(classOf);
    this.byClass = Map.groupBy(pictures.keys(), (i) => this.labels[i]);
    this.spacing = medianSpacing(x, y);
    this.span = [x, y].map((values) => Math.max(...values.map(Math.abs), 0.1)); // from the middle to the far side
    this.sheets = sprites.sheets.map((uri) => {
      const image = new Image();
      image.onload = () => this.invalidate();
      image.src = uri;
      return image;
    });
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
    darkMode.addEventListener("change", () => this.invalidate());
  }

  // What is shown

  select(labels) {
    this.selected = new Set(labels);
    this.onSelect(this.selected);
    this.invalidate();
  }

  draws(kind) {
    this.drawAs = kind;
    this.invalidate();
  }

  /** Bring the pictures of some classes into view. */
  frame(labels) {
    const points = labels.flatMap((label) => this.byClass.get(label) ?? []);
    if (!points.length) return;
    const [left, right] = extent(points.map((i) => this.x[i]));
    const [top, bottom] = extent(points.map((i) => this.y[i]));
    const room = Math.min(
      (0.75 * this.width) / ((right - left) * this.scale(1) || 1e-9),
      (0.75 * this.height) / ((bottom - top) * this.scale(1) || 1e-9),
    );
    this.moveTo({ x: (left + right) / 2, y: (top + bottom) / 2, zoom: Math.min(room, 8) });
  }

  reset(then) {
    this.drawAs = "auto";
    this.moveTo({ x: 0, y: 0, zoom: 1 }, then);
  }

  zoomBy(factor) {
    this.moveTo(this.zoomed(factor, ...this.middle));
  }

  // Geometry

  /** The pixel where the view's point lies: the middle of what the tools leave. */
  get middle() {
    return [this.width / 2, (this.height + TOOLS) / 2];
  }

  scale(zoom = this.view.zoom) {
    return 0.45 * Math.min(this.width / this.span[0], (this.height - TOOLS) / this.span[1]) * zoom;
  }

  toPixels(i) {
    const scale = this.scale();
    return [
      (this.x[i] - this.view.x) * scale + this.middle[0],
      (this.y[i] - this.view.y) * scale + this.middle[1],
    ];
  }

  /** The view after zooming about a pixel, which keeps its place. */
  zoomed(factor, px, py) {
    const zoom = clamp(this.view.zoom * factor, ZOOM.least, ZOOM.most);
    const moved = 1 / this.scale() - 1 / this.scale(zoom);
    return {
      x: this.view.x + (px - this.middle[0]) * moved,
      y: this.view.y + (py - this.middle[1]) * moved,
      zoom,
    };
  }

  moved(dx, dy) {
    return { ...this.view, x: this.view.x - dx / this.scale(), y: this.view.y - dy / this.scale() };
  }

  setView({ x, y, zoom }) {
    const limited = clamp(zoom, ZOOM.least, ZOOM.most);
    const reach = 1 - 0.5 / limited; // less the more of the map shows, so that it is never lost
    this.view = { x: clamp(x, -reach, reach), y: clamp(y, -reach, reach), zoom: limited };
    // While the whole map shows, a finger that moves up or down on it scrolls the page.
    this.canvas.style.touchAction = limited > ZOOM.least ? "none" : "pan-y";
    this.invalidate();
  }

  /** Go to a view in a fifth of a second, or at once. */
  moveTo(target, then = () => {}) {
    cancelAnimationFrame(this.flight);
    this.hover(null);
    const start = this.view;
    const end = { ...target, zoom: clamp(target.zoom, ZOOM.least, ZOOM.most) };
    const began = performance.now();
    const step = (now) => {
      const share = lessMotion.matches ? 1 : clamp((now - began) / 200, 0, 1);
      const eased = 1 - (1 - share) ** 3;
      const between = (a, b) => a + (b - a) * eased;
      const zoom = start.zoom * (end.zoom / start.zoom) ** eased;
      this.setView({ x: between(start.x, end.x), y: between(start.y, end.y), zoom });
      if (share < 1) this.flight = requestAnimationFrame(step);
      else then();
    };
    step(began);
  }

  /** The point at a pixel, or null. */
  pointAt(px, py, reach = REACH) {
    const within = this.showsPictures ? Math.max(reach, this.pictureSize / 2) : reach;
    let best = null;
    let least = within ** 2;
    for (const i of this.shown) {
      const [x, y] = this.toPixels(i);
      const squared = (x - px) ** 2 + (y - py) ** 2;
      if (squared <= least) [best, least] = [i, squared];
    }
    return best;
  }

  // Hands

  listen() {
    const { canvas } = this;
    const held = new Map(); // pointer id -> where it is
    let slipped = 0;

    canvas.addEventListener("wheel", (event) => {
      const speed = event.ctrlKey ? 0.01 : event.deltaMode ? 0.05 : 0.0018;
      const next = this.zoomed(Math.exp(-event.deltaY * speed), event.offsetX, event.offsetY);
      if (next.zoom === this.view.zoom) return; // all of the map shows: let the page scroll
      event.preventDefault();
      cancelAnimationFrame(this.flight);
      this.setView(next);
      this.hover(this.pointAt(event.offsetX, event.offsetY));
    }, { passive: false });

    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      cancelAnimationFrame(this.flight);
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, [event.offsetX, event.offsetY]);
      if (held.size === 1) slipped = 0;
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
      if (other) {
        const gap = (from) => Math.hypot(from[0] - other[0], from[1] - other[1]);
        this.setView(this.zoomed(gap(now) / (gap(before) || 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2));
        this.setView(this.moved((now[0] - before[0]) / 2, (now[1] - before[1]) / 2));
      } else {
        this.setView(this.moved(now[0] - before[0], now[1] - before[1]));
      }
    });
    canvas.addEventListener("pointerup", (event) => {
      if (!held.delete(event.pointerId) || slipped > CLICK) return;
      const point = this.pointAt(event.offsetX, event.offsetY, event.pointerType === "touch" ? 2 * REACH : REACH);
      this.hover(point);
      this.select(point === null ? [] : [this.labels[point]]);
    });
    canvas.addEventListener("pointercancel", (event) => held.delete(event.pointerId));
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.hover(null);
    });
    canvas.addEventListener("blur", () => this.hover(null));
    canvas.addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    const side = Math.min(this.width, this.height);
    const far = 0.15 * side;
    const middle = () => this.hover(this.pointAt(...this.middle, 0.4 * side));
    const go = (view) => this.moveTo(view, middle);
    const actions = {
      ArrowLeft: () => go(this.moved(far, 0)),
      ArrowRight: () => go(this.moved(-far, 0)),
      ArrowUp: () => go(this.moved(0, far)),
      ArrowDown: () => go(this.moved(0, -far)),
      "+": () => go(this.zoomed(ZOOM.button, ...this.middle)),
      "=": () => go(this.zoomed(ZOOM.button, ...this.middle)),
      "-": () => go(this.zoomed(1 / ZOOM.button, ...this.middle)),
      0: () => this.reset(middle),
      Enter: () => this.select(this.hovered === null ? [] : [this.labels[this.hovered]]),
      Escape: () => this.select([]),
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    actions[event.key]();
  }

  hover(point) {
    this.canvas.classList.toggle("pointing", point !== null);
    if (point === this.hovered) return;
    this.hovered = point;
    this.canvas.dispatchEvent(new CustomEvent("hovered", { detail: point }));
    if (point !== null) {
      const [image, name, path] = this.tooltip.children;
      name.textContent = className(this.labels[point]);
      path.textContent = pathOf(this.pictures[point]);
      image.getContext("2d").clearRect(0, 0, image.width, image.height);
      this.drawPicture(image.getContext("2d"), point, 0, 0, image.width);
    }
    this.invalidate();
  }

  // Drawing

  resize() {
    const { width, height } = this.canvas.getBoundingClientRect();
    Object.assign(this, { width, height });
    this.canvas.width = Math.round(width * devicePixelRatio);
    this.canvas.height = Math.round(height * devicePixelRatio);
    this.setView(this.view);
  }

  invalidate() {
    this.pending ??= requestAnimationFrame(() => {
      this.pending = null;
      if (this.width) this.draw();
    });
  }

  get showsPictures() {
    return this.drawAs === "pictures" || (this.drawAs === "auto" && this.spacing * this.scale() > 13);
  }

  get pictureSize() {
    return clamp(1.9 * this.spacing * this.scale(), 24, 84);
  }

  get pointSize() {
    return clamp(0.42 * this.spacing * this.scale(), 2.4, 7);
  }

  draw() {
    const { context, canvas, selected } = this;
    const style = getComputedStyle(canvas);
    this.paper = style.getPropertyValue("--card");
    this.ink = style.getPropertyValue("--ink");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);

    this.shown = this.showsPictures ? this.uncrowded() : new Set(this.pictures.keys());
    const drawClass = this.showsPictures ? this.drawPictures : this.drawPoints;
    for (const [label, points] of this.byClass) {
      if (selected.size && !selected.has(label)) drawClass.call(this, label, points, true);
    }
    for (const [label, points] of this.byClass) {
      if (!selected.size || selected.has(label)) drawClass.call(this, label, points, false);
    }
    this.drawNames();
    this.drawHovered();

    // For whoever cannot see the canvas: assistive scripts and tests.
    canvas.dataset.zoom = this.view.zoom.toFixed(3);
    canvas.dataset.drawn = this.showsPictures ? "pictures" : "points";
    canvas.dispatchEvent(new CustomEvent("drawn"));
  }

  /** The points whose pictures have room: one in each cell of a grid, those of singled out classes first. */
  uncrowded() {
    // The grid moves with the map and changes in steps of the zoom, so that pictures do not flicker.
    const step = 1.25 ** Math.round(Math.log(this.scale()) / Math.log(1.25));
    const cell = (0.66 * this.pictureSize) / step;
    const taken = new Set();
    const first = [...this.selected].flatMap((label) => this.byClass.get(label) ?? []);
    return new Set([...first, ...this.pictures.keys()].filter((i) => {
      const key = `${Math.floor(this.x[i] / cell)},${Math.floor(this.y[i] / cell)}`;
      return !taken.has(key) && taken.add(key);
    }));
  }

  /** Those of some points that are shown within the canvas, or less than `room` pixels beyond, with their place. */
  visible(points, room) {
    return points
      .filter((i) => this.shown.has(i))
      .map((i) => [i, ...this.toPixels(i)])
      .filter(([, x, y]) => x > -room && y > -room && x < this.width + room && y < this.height + room);
  }

  drawPoints(label, points, dimmed) {
    const { context } = this;
    const radius = this.pointSize;
    context.beginPath();
    for (const [, x, y] of this.visible(points, radius)) {
      context.moveTo(x + radius, y);
      context.arc(x, y, radius, 0, 2 * Math.PI);
    }
    context.globalAlpha = dimmed ? 0.13 : 0.9;
    context.fillStyle = classColor(label);
    context.fill();
    context.globalAlpha = 1;
  }

  drawPictures(label, points, dimmed) {
    const { context } = this;
    const size = this.pictureSize;
    context.globalAlpha = dimmed ? 0.16 : 1;
    context.strokeStyle = classColor(label);
    context.lineWidth = clamp(size / 20, 1.5, 3);
    for (const [i, x, y] of this.visible(points, size)) {
      this.drawPicture(context, i, x - size / 2, y - size / 2, size);
      context.strokeRect(x - size / 2, y - size / 2, size, size);
    }
    context.globalAlpha = 1;
  }

  /** Draw point i's thumbnail from its sheet. */
  drawPicture(context, i, x, y, size) {
    const { tile, columns, rows } = this.sprites;
    const sheet = this.sheets[Math.floor(i / (columns * rows))];
    const place = i % (columns * rows);
    const [left, top] = [(place % columns) * tile, Math.floor(place / columns) * tile];
    if (sheet.complete) context.drawImage(sheet, left, top, tile, tile, x, y, size, size);
  }

  drawHovered() {
    const { context, tooltip, hovered } = this;
    const [x, y] = hovered === null ? [] : this.toPixels(hovered);
    tooltip.hidden = !(x >= 0 && x <= this.width && y >= 0 && y <= this.height); // another map may name any point
    if (tooltip.hidden) return;
    context.lineWidth = 2.5;
    context.strokeStyle = this.ink;
    const size = this.showsPictures ? this.pictureSize : 0;
    if (size) {
      this.drawPicture(context, hovered, x - size / 2, y - size / 2, size);
      context.strokeRect(x - size / 2 - 1, y - size / 2 - 1, size + 2, size + 2);
    } else {
      context.beginPath();
      context.arc(x, y, this.pointSize + 3, 0, 2 * Math.PI);
      context.stroke();
    }
    const away = Math.max(size / 2, this.pointSize) + 12;
    const { offsetWidth, offsetHeight } = tooltip;
    const left = x + away + offsetWidth < this.width ? x + away : x - away - offsetWidth;
    tooltip.style.left = `${clamp(left, 6, Math.max(6, this.width - offsetWidth - 6))}px`;
    tooltip.style.top = `${clamp(y - offsetHeight / 2, 6, Math.max(6, this.height - offsetHeight - 6))}px`;
  }

  /** Write the names of the singled out classes, or those of few classes on points, where none covers another. */
  drawNames() {
    const { context } = this;
    const few = this.byClass.size <= 40 && !this.showsPictures;
    const named = this.selected.size ? this.selected : few ? this.byClass.keys() : [];
    const taken = [];
    context.font = `600 12px ${getComputedStyle(document.body).fontFamily}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    for (const label of named) {
      const points = this.byClass.get(label);
      if (!points) continue;
      const middle = this.middles.get(label);
      const [px, y] = this.toPixels(middle);
      if (px < 0 || px > this.width || y < 0 || y > this.height) continue;
      const text = className(label);
      const half = context.measureText(text).width / 2 + 6;
      const x = clamp(px, half, Math.max(half, this.width - half));
      const box = [x - half, y - 12, x + half, y + 12];
      if (taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
      taken.push(box);
      context.strokeStyle = this.paper;
      context.lineWidth = 4;
      context.strokeText(text, x, y);
      context.fillStyle = this.ink;
      context.fillText(text, x, y);
    }
  }

  /** The point of each class that is most in its middle. */
  get middles() {
    const middles = new Map([...this.byClass].map(([label, points]) => {
      const [x, y] = [median(points.map((i) => this.x[i])), median(points.map((i) => this.y[i]))];
      const far = (i) => (this.x[i] - x) ** 2 + (this.y[i] - y) ** 2;
      return [label, points.reduce((best, i) => (far(i) < far(best) ? i : best))];
    }));
    Object.defineProperty(this, "middles", { value: middles }); // once
    return middles;
  }
}

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
const extent = (values) => [Math.min(...values), Math.max(...values)];

/** The usual distance from a point to the nearest other: of 300 of them, which is near enough. */
function medianSpacing(x, y) {
  const even = 2 / Math.sqrt(x.length);
  const stride = Math.ceil(x.length / 300);
  const nearest = [];
  for (let i = 0; i < x.length; i += stride) {
    let least = Infinity;
    for (let j = 0; j < x.length; j++) {
      if (j !== i) least = Math.min(least, (x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2);
    }
    nearest.push(Math.sqrt(least));
  }
  return clamp(median(nearest), even / 4, even);
}
