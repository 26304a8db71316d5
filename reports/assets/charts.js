// Pictures as inline SVG. What they show stands in a table or a sentence beside them, too.

const WIDTH = 380;
const HEIGHT = 170;
const EDGE = { left: 44, right: 12, top: 10, bottom: 30 };

const frame = (label, ...children) =>
  s("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, children);

const scaled = (from, to, low, high) => (x) => low + ((x - from) / (to - from || 1)) * (high - low);

/** Few round numbers between two bounds. */
function ticks(low, high, about) {
  const raw = (high - low) / about || 1;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * size).find((one) => one >= raw);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

/** Texts of ticks with the digits that tell neighbours apart. */
function tickTexts(values) {
  const gaps = values.slice(1).map((value, i) => Math.abs(value - values[i]));
  const gap = Math.min(...gaps);
  if (!gaps.length || gap >= 1e5 || gap < 1e-6) return values.map(numeral);
  const leading = Math.max(0, -Math.floor(Math.log10(gap)));
  const digits = Math.abs(gap * 10 ** leading - Math.round(gap * 10 ** leading)) > 1e-6 ? leading + 1 : leading;  // steps of 2.5 have one more
  return values.map((value) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(digits));
}

function axisX(at, low, high, show) {
  const base = HEIGHT - EDGE.bottom;
  return [
    s("line", { class: "axis", x1: at(low), x2: at(high), y1: base, y2: base }),
    ticks(low, high, 4).map((x) => [
      s("line", { class: "axis", x1: at(x), x2: at(x), y1: base, y2: base + 4 }),
      s("text", { class: "tick", x: at(x), y: base + 16, "text-anchor": "middle" }, show(x)),
    ]),
  ];
}

function axisY(at, low, high, texts) {
  const places = ticks(low, high, 4);
  const told = texts(places);
  return places.map((y, i) => [
    s("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: at(y), y2: at(y) }),
    s("text", { class: "tick", x: EDGE.left - 6, y: at(y) + 4, "text-anchor": "end" }, told[i]),
  ]);
}

/** The scale of colours and of histograms: values near 0, which are most, get room. */
const signedRoot = (value) => Math.sign(value) * Math.sqrt(Math.abs(value));

/** Kept tokens filled, masked ones hatched on top of them; the line at 0 where both signs occur. */
function histogram(column, bins, label) {
  const num = bins.num_tokens.length;
  const most = Math.max(1, ...bins.num_tokens);
  const [low, high] = [signedRoot(column.low), signedRoot(column.high)];
  const alongRoot = scaled(low, high, EDGE.left, WIDTH - EDGE.right);
  const x = (value) => alongRoot(signedRoot(value));
  const y = scaled(0, most, HEIGHT - EDGE.bottom, EDGE.top);
  const width = (WIDTH - EDGE.left - EDGE.right) / num;
  const middle = (i) => low + ((i + 0.5) / num) * (high - low);
  const pattern = `hatch-${column.name}`;
  const bars = bins.num_tokens.map((tokens, i) => {
    const kept = bins.num_kept[i];
    const kind = hue(column.name, Math.abs(middle(i)) < 1e-9 * (high - low) ? 0 : middle(i));
    const bar = (of, from, to) => (to > from ? s("rect", { class: of, x: EDGE.left + i * width, width: Math.max(0.5, width - 1), y: y(to), height: y(from) - y(to) }) : null);
    const masked = bar(`bar masked-bar ${kind}`, kept, tokens);
    masked?.style.setProperty("fill", `url(#${pattern}-${kind})`);
    return [bar(`bar ${kind}`, 0, kept), masked];
  });
  const zero = column.low < 0 && column.high > 0 ? s("line", { class: "zero", x1: x(0), x2: x(0), y1: EDGE.top, y2: HEIGHT - EDGE.bottom }) : null;
  return frame(label, ["negative", "positive", "signal"].map((kind) => hatch(`${pattern}-${kind}`, kind)),
    axisY(y, 0, most, (values) => values.map(short)), bars, zero, axisX(x, column.low, column.high, numeral));
}

function hatch(id, kind) {
  return s("pattern", { id, width: 4, height: 4, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    s("rect", { class: "hatch-ground", width: 4, height: 4 }), s("rect", { class: `bar ${kind}`, width: 1.6, height: 4 }));
}

function short(number) {
  return number >= 1e6 ? `${number / 1e6}M` : number >= 1e3 ? `${number / 1e3}k` : String(number);
}

/** A share as a bar beside its figure. */
function shareBar(share, reference) {
  const bar = s("svg", { class: "share", viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "meter-ground", x: 0, y: 2, width: 100, height: 8 }), s("rect", { class: "bar positive", x: 0, y: 2, width: 100 * share, height: 8 }),
    reference === null ? null : s("rect", { class: "meter-zero", x: Math.min(99.2, 100 * reference), y: 0, width: 0.8, height: 12 }));
  return h("span", { class: "share-cell" }, bar, h("span", { class: "share-figure" }, percent(share)));
}

const NUM_DASHES = 6;

/** Lines by step; series differ by dash and mark as well as by colour. Series: [name, [[step, value], …], number of its style]. */
function lines(series, label) {
  const points = series.flatMap(([, one]) => one);
  const values = points.map(([, value]) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low) * 0.08 || Math.abs(high) * 0.05 || 1;
  const last = Math.max(1, ...points.map(([step]) => step));
  const x = scaled(0, last, EDGE.left, WIDTH - EDGE.right);
  const y = scaled(low - room, high + room, HEIGHT - EDGE.bottom, EDGE.top);
  return frame(label, axisY(y, low - room, high + room, tickTexts), axisX(x, 0, last, count), series.map(([, one, style]) => [
    s("polyline", { class: `line line${style % NUM_DASHES}`, points: one.map(([step, value]) => `${x(step)},${y(value)}`).join(" ") }),
    (one.length <= 30 ? one : [one[0], one.at(-1)]).map(([step, value]) => mark(style, x(step), y(value))),
  ]));
}

function mark(style, x, y) {
  const kind = { class: `mark mark${style % NUM_DASHES}` };
  if (style % 3 === 0) return s("circle", { ...kind, cx: x, cy: y, r: 3 });
  if (style % 3 === 1) return s("rect", { ...kind, x: x - 2.7, y: y - 2.7, width: 5.4, height: 5.4 });
  return s("path", { ...kind, d: `M${x} ${y - 3.6}L${x + 3.4} ${y + 2.6}L${x - 3.4} ${y + 2.6}Z` });
}

const key = (name, style) => h("span", { class: "key" },
  s("svg", { viewBox: "0 0 30 10", class: "key-line", "aria-hidden": "true" },
    s("line", { class: `line line${style % NUM_DASHES}`, x1: 0, x2: 30, y1: 5, y2: 5 }), mark(style, 15, 5)), name);
