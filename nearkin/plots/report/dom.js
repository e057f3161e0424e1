"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const darkMode = matchMedia("(prefers-color-scheme: dark)");
const lessMotion = matchMedia("(prefers-reduced-motion: reduce)");

const byId = (id) => document.getElementById(id);

/** Make an element. Strings among the children become text, never markup. */
function element(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** Make an SVG element; the namespace is the one that the parser gave the template's. */
function svgElement(tag, attributes = {}, ...children) {
  const namespace = byId("svg").content.firstElementChild.namespaceURI;
  return furnish(document.createElementNS(namespace, tag), attributes, children);
}

function furnish(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const percent = (fraction) => `${(100 * fraction).toFixed(1)}%`;
const whole = (number) => number.toLocaleString("en");

/** A number of any size in some four characters. */
function short(number) {
  const size = Math.abs(number);
  if (size === 0) return "0";
  if (size >= 1e5 || size < 1e-3) return number.toExponential(1).replace(".0", "").replace("e+", "e");
  return String(Number(number.toPrecision(3)));
}

/** Terms and what is said of each, as the children of a dl. */
const definitions = (pairs) => pairs.map(([term, text]) =>
  element("div", {}, element("dt", {}, term), element("dd", {}, text)));

const className = (label) => DATA.classes.names[label];
const classOf = (picture) => DATA.pictures.classes[picture];
const pathOf = (picture) => DATA.pictures.paths[picture];

/** The color of a class: hues far apart for consecutive classes, in three lightnesses, so that 100 stay apart. */
function classColor(label) {
  const hue = (label * 137.508 + 25) % 360;
  const lightness = (darkMode.matches ? [0.74, 0.64, 0.84] : [0.62, 0.72, 0.5])[label % 3];
  const chroma = [0.17, 0.13, 0.14][label % 3];
  return `oklch(${lightness} ${chroma} ${hue.toFixed(1)})`;
}
