// Elements, and charts drawn as SVG.  Text goes in as text nodes only: names come from files.

function h(tag, attributes, ...children) {
  return build(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(3).filter(child => child != null && child !== false));
  return element;
}

function ticks(low, high, count) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find(factor => factor * power >= raw) * power, found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(+(k * step).toPrecision(12));
  return found;
}

function brief(value) {
  return value == null ? "–" : Math.abs(value) >= 1000 ? value.toLocaleString("en") : String(+value.toPrecision(4));
}

const CHART = {width: 640, height: 260, left: 48, right: 24, top: 10, bottom: 34};

// series: [{name, x, y, color, dash, counts}]; counts: a dot each of that area, and no line; limits: [low, high] of y, where the values do not
// say them.
function chart(title, series, {limits, xName = "step", diagonal = false} = {}) {
  const {height, left, right, top, bottom} = CHART, width = Math.min(CHART.width, Math.max(300, innerWidth - 32));  // letters keep their size on a phone
  const xs = series.flatMap(each => each.x), ys = limits || series.flatMap(each => each.y);
  if (!xs.length) return h("p", {class: "muted"}, "Nothing recorded yet.");
  const extent = values => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
  const [x0, x1] = diagonal ? [0, 1] : extent(xs), [y0, y1] = padded(extent(ys), limits);
  const px = x => left + (x1 > x0 ? (x - x0) / (x1 - x0) : 0.5) * (width - left - right);
  const py = y => top + (1 - (y - y0) / (y1 - y0)) * (height - top - bottom);
  const grid = ticks(y0, y1, 5).map(y => [
    svg("line", {class: "grid", x1: left, x2: width - right, y1: py(y), y2: py(y)}),
    svg("text", {x: left - 6, y: py(y) + 4, "text-anchor": "end"}, brief(y)),
  ]);
  const marks = ticks(x0, x1, width < 500 ? 3 : 6).map(x => svg("text", {x: px(x), y: height - bottom + 16, "text-anchor": "middle"}, brief(x)));
  const hue = (each, i) => `s${(each.color ?? i) % 8}`;
  const lines = series.map((each, i) => (each.counts ? each.x.map((x, k) => svg("circle", {class: "bin", cx: px(x), cy: py(each.y[k]),
    r: 2 + 9 * Math.sqrt(each.counts[k] / Math.max(...each.counts))})) : [
    svg("polyline", {class: `line ${hue(each, i)}${each.dash ? " dash" : ""}`, points: each.x.map((x, k) => `${px(x).toFixed(1)},${py(each.y[k]).toFixed(1)}`).join(" ")}),
    each.x.length < 30 && each.x.map((x, k) => svg("circle", {class: `point ${hue(each, i)}`, cx: px(x), cy: py(each.y[k]), r: 2.5})),
  ])).reverse();
  const rule = svg("line", {class: "rule", y1: top, y2: height - bottom, visibility: "hidden"});
  const drawing = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${described(series)}`},
    grid, marks, svg("text", {x: width - right, y: height - 4, "text-anchor": "end"}, xName),
    diagonal && svg("line", {class: "rule", x1: px(0), y1: py(0), x2: px(1), y2: py(1)}), lines, rule);
  const values = series.map(each => h("span", {class: "value"}, brief(each.y.at(-1))));
  drawing.addEventListener("pointermove", event => {
    const box = drawing.getBoundingClientRect(), at = x0 + ((event.clientX - box.left) / box.width * width - left) / (width - left - right) * (x1 - x0);
    const near = series.map(each => each.x.reduce((best, x, k) => (Math.abs(x - at) < Math.abs(each.x[best] - at) ? k : best), 0));
    values.forEach((value, i) => { value.textContent = brief(series[i].y[near[i]]); });
    if (series[0].x.length) build(rule, {x1: px(series[0].x[near[0]]), x2: px(series[0].x[near[0]]), visibility: "visible"}, []);
  });
  drawing.addEventListener("pointerleave", () => {
    values.forEach((value, i) => { value.textContent = brief(series[i].y.at(-1)); });
    rule.setAttribute("visibility", "hidden");
  });
  const legend = series.length > 1 || !diagonal
    ? h("ul", {class: "legend"}, series.map((each, i) => h("li", null, key(hue(each, i), each.dash), each.name, " ", values[i]))) : null;
  return h("figure", {class: "chart"}, h("figcaption", null, title), drawing, legend);
}

function key(hue, dash) {
  return svg("svg", {class: "key", viewBox: "0 0 22 8", "aria-hidden": "true"},
    svg("line", {class: `line ${hue}${dash ? " dash" : ""}`, x1: 1, x2: 21, y1: 4, y2: 4}));
}

function padded([low, high], limits) {
  if (limits) return [low, high];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

function described(series) {
  return series.slice(0, 8).map(each => `${each.name} ends at ${brief(each.y.at(-1))}`).join(", ");
}

// A strip of the seeds' values below a cell's mean, on the scale of its column.
function strip(values, low, high) {
  const x = value => 3 + (high > low ? (value - low) / (high - low) : 0.5) * 90;
  return svg("svg", {class: "strip", viewBox: "0 0 96 6", "aria-hidden": "true"},
    svg("line", {class: "grid", x1: 3, x2: 93, y1: 3, y2: 3}), values.map(value => svg("circle", {class: "seed", cx: x(value), cy: 3, r: 2.2})));
}
