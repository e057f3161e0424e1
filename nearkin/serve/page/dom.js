export const byId = (id) => document.getElementById(id);

/** Make an element. Strings among the children become text, never markup. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
export const whole = (number) => number.toLocaleString("en");
export const count = (number, noun) => `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;
export const darkMode = matchMedia("(prefers-color-scheme: dark)");
export const lessMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** Give the frame of a picture its shape. */
export function shape(image) {
  image.parentElement.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
}
