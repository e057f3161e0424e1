import { clamp } from "/assets/dom.js";

const LEAST = 4; // CSS pixels that a frame has to be wide and high, or it was a click
const STEP = 0.05; // share of a side that a key moves

/** A frame on a picture, drawn with a pointer or moved by keys. It is kept in shares of the picture's sides. */
export class Crop {
  frame = null; // { x, y, w, h }, 0 to 1

  constructor(canvas, image, onChange) {
    Object.assign(this, { canvas, image, onChange });
    let start = null;
    const at = (event) => [
      clamp(event.offsetX / canvas.clientWidth, 0, 1), clamp(event.offsetY / canvas.clientHeight, 0, 1),
    ];
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      canvas.setPointerCapture(event.pointerId);
      start = at(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!start) return;
      const end = at(event);
      this.frame = {
        x: Math.min(start[0], end[0]), y: Math.min(start[1], end[1]),
        w: Math.abs(end[0] - start[0]), h: Math.abs(end[1] - start[1]),
      };
      this.draw();
    });
    canvas.addEventListener("pointerup", () => {
      if (!start) return;
      start = null;
      const { frame } = this;
      if (!frame) return;
      if (frame.w * canvas.clientWidth < LEAST || frame.h * canvas.clientHeight < LEAST) this.set(null);
      else this.onChange();
    });
    canvas.addEventListener("pointercancel", () => { start = null; });
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("keyup", (event) => {
      if (event.key.startsWith("Arrow") && this.frame) this.onChange();
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  set(frame) {
    const changed = frame !== this.frame;
    this.frame = frame;
    this.draw();
    if (changed) this.onChange();
  }

  /** The frame in pixels of the picture as the server reads it, `x,y,w,h`; null for all of it. */
  text(width = this.image.naturalWidth, height = this.image.naturalHeight) {
    if (!this.frame) return null;
    const x = clamp(Math.floor(this.frame.x * width), 0, width - 1);
    const y = clamp(Math.floor(this.frame.y * height), 0, height - 1);
    const w = clamp(Math.round(this.frame.w * width), 1, width - x);
    const h = clamp(Math.round(this.frame.h * height), 1, height - y);
    return `${x},${y},${w},${h}`;
  }

  press(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape" && this.frame) this.set(null);
    else if (way) {
      const frame = this.frame ?? { x: 0.25, y: 0.25, w: 0.5, h: 0.5 };
      const [dx, dy] = way.map((each) => each * STEP);
      const { x, y, w, h } = frame;
      this.frame = event.shiftKey
        ? { x, y, w: clamp(w + dx, STEP, 1 - x), h: clamp(h + dy, STEP, 1 - y) }
        : { x: clamp(x + dx, 0, 1 - w), y: clamp(y + dy, 0, 1 - h), w, h };
      this.draw();
    } else return;
    event.preventDefault();
  }

  draw() {
    const { canvas, frame } = this;
    canvas.width = canvas.clientWidth * devicePixelRatio;
    canvas.height = canvas.clientHeight * devicePixelRatio;
    if (!frame) return;
    const context = canvas.getContext("2d");
    const box = [frame.x * canvas.width, frame.y * canvas.height, frame.w * canvas.width, frame.h * canvas.height];
    context.fillStyle = "rgb(0 0 0 / 55%)";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.clearRect(...box);
    context.lineWidth = 2 * devicePixelRatio;
    context.strokeStyle = "#fff";
    context.strokeRect(...box);
  }
}
