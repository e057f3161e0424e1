const CHART_TITLES = { loss: "Loss", lr: "Learning rate", validation: "Held-out training classes" };
const LAST_STEP = Math.max(1, ...DATA.charts.flatMap(({ series }) => series.map(({ steps }) => steps.at(-1) ?? 1)));
const SPACE = { left: 48, right: 12, top: 8, bottom: 32 };

/** A chart of lines over training steps that reads off values under the pointer or the arrow keys. */
function curveChart(chart) {
  const readout = element("span", { class: "readout", "aria-live": "polite" });
  const plot = element("div", { class: "plot" });
  const title = CHART_TITLES[chart.name] ?? chart.name;
  const figure = element("div", { class: "chart" }, element("header", {}, element("h3", {}, title), readout), plot);
  for (const line of chart.series) {
    if (line.broken_at === null) continue;
    figure.append(element("p", { class: "warning" }, `${line.name} is not a number from step ${whole(line.broken_at)}.`));
  }
  const drawn = chart.series.filter((line) => line.steps.length);
  if (!drawn.length) return figure;

  const steps = [...new Set(drawn.flatMap((line) => line.steps))].sort((a, b) => a - b);
  const format = chart.percent ? percent : short;
  let cursor = null; // index into steps; null shows the last

  function draw() {
    const { width, height } = plot.getBoundingClientRect();
    if (width < 80) return;
    const x = scale([0, LAST_STEP], [SPACE.left, width - SPACE.right], false);
    const y = scale(valueRange(chart, drawn), [height - SPACE.bottom, SPACE.top], chart.log);
    const svg = svgElement("svg", { role: "img", tabindex: 0, "aria-label": describe(title, drawn, format) });
    drawAxes(svg, x, y, width, height, chart);
    drawn.forEach((line, i) => drawLine(svg, line, i, x, y));
    const marks = svgElement("g");
    svg.append(marks);

    function point() {
      const step = steps[cursor ?? steps.length - 1];
      readout.replaceChildren(`step ${whole(Math.round(step))}`);
      marks.replaceChildren();
      if (cursor !== null) {
        marks.append(svgElement("line", { class: "guide", x1: x(step), x2: x(step), y1: SPACE.top, y2: height - SPACE.bottom }));
      }
      drawn.forEach((line, i) => {
        const at = nearestIndex(line.steps, step);
        const trend = line.smooth.length ? line.smooth[at] : line.values[at];
        marks.append(svgElement("circle", { class: `dot series-${i % 4}`, cx: x(line.steps[at]), cy: y(trend), r: 4.5 }));
        readout.append(" · ", element("span", { class: `series-${i % 4}` }, line.name), " ",
          element("b", {}, format(line.values[at])));
        if (line.smooth.length) readout.append(", trend ", element("b", {}, format(trend)));
      });
    }

    const move = (index) => {
      cursor = index === null ? null : clamp(index, 0, steps.length - 1);
      point();
    };
    const follow = (event) => move(nearestIndex(steps, x.invert(event.clientX - svg.getBoundingClientRect().left)));
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow);
    svg.addEventListener("pointerleave", () => move(null));
    svg.addEventListener("blur", () => move(null));
    svg.addEventListener("keydown", (event) => {
      const stride = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (stride === undefined) return;
      event.preventDefault();
      move((cursor ?? steps.length - 1) + stride);
    });
    point();
    plot.replaceChildren(svg);
  }
  new ResizeObserver(draw).observe(plot);
  return figure;
}

/** The values an axis spans: a little more than the data, from 0 where that costs little. */
function valueRange(chart, series) {
  const values = series.flatMap((line) => line.values);
  let low = values.reduce((a, b) => Math.min(a, b));
  let high = values.reduce((a, b) => Math.max(a, b));
  if (chart.log) return [low / 1.2, high * 1.2];
  if (low === high && chart.percent) return [0, 1];
  if (low === high) return low > 0 ? [0, 2 * low] : [low - 1, high + 1];
  if (low > 0 && low < 0.5 * high) low = 0;
  const room = 0.06 * (high - low);
  return [low === 0 ? 0 : low - room, high + room];
}

function drawAxes(svg, x, y, width, height, chart) {
  for (const value of chart.log ? logTicks(y.domain) : ticks(y.domain, Math.max(2, height / 36))) {
    const at = y(value);
    svg.append(
      svgElement("line", { class: "grid", x1: SPACE.left, x2: width - SPACE.right, y1: at, y2: at }),
      svgElement("text", { x: SPACE.left - 8, y: at + 4, "text-anchor": "end" },
        chart.percent ? `${short(100 * value)}%` : short(value)),
    );
  }
  for (const value of ticks(x.domain, Math.max(2, width / 100)).filter(Number.isInteger)) {
    const anchor = x(value) > width - 24 ? "end" : "middle";
    svg.append(svgElement("text", { x: x(value), y: height - SPACE.bottom + 15, "text-anchor": anchor }, whole(value)));
  }
  svg.append(svgElement("text", { x: width - SPACE.right, y: height - 3, "text-anchor": "end" }, "training step"));
  if (chart.log) svg.append(svgElement("text", { x: 0, y: height - 3 }, "logarithmic"));
}

function drawLine(svg, line, i, x, y) {
  const path = (values) => values.map((value, at) => `${x(line.steps[at]).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const attributes = (values, kind) => ({ class: `line series-${i % 4} ${kind}`, points: path(values) });
  if (line.smooth.length) svg.append(svgElement("polyline", attributes(line.values, "raw")));
  const trend = line.smooth.length ? line.smooth : line.values;
  svg.append(svgElement("polyline", attributes(trend, i ? `dash-${i % 4}` : "")));
}

/** Index of the number nearest to a value, in ascending numbers. */
function nearestIndex(numbers, value) {
  let low = 0;
  let high = numbers.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= value) low = middle;
    else high = middle;
  }
  return value - numbers[low] <= numbers[high] - value ? low : high;
}

function describe(title, series, format) {
  const lines = series.map((line) =>
    `${line.name} from ${format(line.values[0])} at step ${whole(Math.round(line.steps[0]))} ` +
    `to ${format(line.values.at(-1))} at step ${whole(Math.round(line.steps.at(-1)))}`);
  return `${title}: ${lines.join("; ")}. Arrow keys read off values.`;
}
