/** Map a domain to pixels; `invert` goes back. */
function scale([low, high], [from, to], log) {
  const bend = log ? Math.log : (value) => value;
  const span = bend(high) - bend(low) || 1;
  const map = (value) => from + ((bend(value) - bend(low)) / span) * (to - from);
  map.domain = [low, high];
  map.invert = (pixel) => {
    const bent = bend(low) + ((pixel - from) / (to - from)) * span;
    return log ? Math.exp(bent) : bent;
  };
  return map;
}

/** About `count` round numbers within a domain. */
function ticks([low, high], count) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

function logTicks([low, high]) {
  const decades = Math.log10(high / low);
  const factors = decades < 2.5 ? [1, 3] : [1];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const factor of factors) found.push(Number((factor * 10 ** power).toPrecision(6)));
  }
  const stride = Math.ceil(found.length / 8);
  return found.filter((value) => value >= low && value <= high).filter((_, i) => i % stride === 0);
}
