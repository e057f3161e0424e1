import { clamp } from "/assets/dom.js";

const LEAST = 4; // CSS pixels that a frame has to be wide and high, or it was a click
const STEP = 0.05; // share of a side that a key moves

/** A frame on a picture, drawn with a pointer or moved by keys, and told in words. It is kept in shares of the picture's sides. */
export class Crop {
  frame = null; // { x, y, w, h }, 0 to 1

  constructor(canvas, said, onChange) {
    Object.assign(this, { canvas, said, onChange });
    let start = null;
    let before = null;
    const at = (event) => [
      clamp(event.offsetX / canvas.clientWidth, 0, 1), clamp(event.offsetY / canvas.clientHeight, 0, 1),
    ];
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      canvas.setPointerCapture(event.pointerId);
      start = at(event);
      before = this.frame;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!start) return;
      const end = at(event);
      this.show({
        x: Math.min(start[0], end[0]), y: Math.min(start[1], end[1]),
        w: Math.abs(end[0] - start[0]), h: Math.abs(end[1] - start[1]),
      });
    });
    canvas.addEventListener("pointerup", () => {
      if (!start) return;
      start = null;
      const { frame } = this;
      if (frame === before) return;
      const drawn = frame.w * canvas.clientWidth >= LEAST && frame.h * canvas.clientHeight >= LEAST;
      if (!drawn) this.show(null);
      if (drawn || before) this.onChange();
    });
    canvas.addEventListener("pointercancel", () => {
      if (!start) return;
      start = null;
      this.show(before);
    });
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("keyup", (event) => {
      if (event.key.startsWith("Arrow") && this.frame) this.onChange();
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
    this.show(null);
  }

  show(frame) {
    this.frame = frame;
    this.said.textContent = inWords(frame);
    this.draw();
  }

  remove() {
    if (!this.frame) return;
    this.show(null);
    this.onChange();
  }

  press(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape" && this.frame) this.remove();
    else if (way) {
      const { x, y, w, h } = this.frame ?? { x: 0.25, y: 0.25, w: 0.5, h: 0.5 };
      const [dx, dy] = way.map((each) => each * STEP);
      this.show(event.shiftKey
        ? { x, y, w: clamp(w + dx, STEP, 1 - x), h: clamp(h + dy, STEP, 1 - y) }
        : { x: clamp(x + dx, 0, 1 - w), y: clamp(y + dy, 0, 1 - h), w, h });
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

/** A frame in pixels of a picture of this size, `x,y,w,h`. */
export function inPixels(frame, { width, height }) {
  const x = clamp(Math.floor(frame.x * width), 0, width - 1);
  const y = clamp(Math.floor(frame.y * height), 0, height - 1);
  const w = clamp(Math.round(frame.w * width), 1, width - x);
  const h = clamp(Math.round(frame.h * height), 1, height - y);
  return `${x},${y},${w},${h}`;
}

function inWords(frame) {
  if (!frame) return "Drag on the picture to search with a part of it.";
  const [x, y, w, h] = [frame.x, frame.y, frame.w, frame.h].map((share) => Math.round(100 * share));
  return `Only a part: ${w} % wide and ${h} % high, ${x} % from the left, ${y} % from the top.`;
}
