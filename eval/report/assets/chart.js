"use strict";
// Lines with intervals as SVG, drawn at the width there is; the same numbers as a table beneath.

const MARGIN = { top: 12, right: 14, bottom: 40, left: 52 };
const HEIGHT = 300;
const MARKERS = {
  s: "M-3.5-3.5h7v7h-7z", "^": "M0-4.5 4 3.5h-8z", v: "M0 4.5 4-3.5h-8z", D: "M0-4.8 4.8 0 0 4.8-4.8 0z",
  P: "M-1.3-4h2.6v2.7H4v2.6H1.3V4h-2.6V1.3H-4v-2.6h2.7z", "<": "M-4.5 0 3.5-4v8z", ">": "M4.5 0-3.5-4v8z",
};
const CIRCLE = "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0z";

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Round values from low to high, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((each) => each >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) {
    found.push(Number((k * step).toPrecision(12)));
  }
  return found;
}

// lineChart({title, xLabel, yLabel, lines: [{name, colour, dash, marker, x, y, low?, high?}], references?,
// from?, to?, text}): a figure. `text(y)` says a value; `from`, `to` fix the ends of the y axis.
function lineChart({ title, xLabel, yLabel, lines, references = [], from, to, text }) {
  const hidden = new Set();
  const canvas = h("div.plot");
  const tip = h("div.tip", { hidden: true, "aria-live": "polite" });
  const legend = h("div.legend", { role: "group", "aria-label": "Lines shown" });
  const xs = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const values = lines.flatMap(({ y, low = [], high = [] }) => [...y, ...low, ...high]).filter((v) => v != null);
  const bottom = from ?? Math.min(...values);
  const top = to ?? (Math.max(...values) > bottom ? Math.max(...values) : bottom + 1);
  let at = -1;
  let place = () => 0;
  let cursor = null;

  function draw() {
    const width = canvas.clientWidth;
    if (!width) return;
    const right = xs.at(-1) || 1;
    const inner = width - MARGIN.left - MARGIN.right;
    const X = (x) => MARGIN.left + (inner * x) / right;
    const Y = (y) => HEIGHT - MARGIN.bottom - ((HEIGHT - MARGIN.top - MARGIN.bottom) * (y - bottom)) / (top - bottom);
    place = X;
    const grid = svg("g", { class: "grid" });
    for (const y of ticks(bottom, top, 5)) {
      grid.append(svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: Y(y), y2: Y(y) }));
      grid.append(svg("text", { x: MARGIN.left - 8, y: Y(y) + 4, "text-anchor": "end" }, text(y)));
    }
    for (const x of ticks(0, right, Math.min(8, width / 80))) {
      grid.append(svg("text", { x: X(x), y: HEIGHT - MARGIN.bottom + 18, "text-anchor": "middle" }, number(x)));
    }
    grid.append(svg("text", { x: width - MARGIN.right, y: HEIGHT - 4, "text-anchor": "end" }, xLabel));
    const root = svg("svg", {
      viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, tabindex: 0, role: "img",
      "aria-label": `${title}. Arrow keys read the values; the table below holds all of them.`,
    }, grid);
    for (const { label, y } of references) {
      root.append(svg("line", { class: "reference", x1: MARGIN.left, x2: width - MARGIN.right, y1: Y(y), y2: Y(y) }));
      const beside = Y(y) + (y > (top + bottom) / 2 ? 14 : -5); // under what is high, over what is low
      root.append(svg("text", { class: "reference", x: width - MARGIN.right, y: beside, "text-anchor": "end" }, label));
    }
    const shown = lines.filter((line) => !hidden.has(line.name));
    for (const line of shown.filter((each) => each.low?.some((v) => v != null))) {
      const there = line.x.map((x, k) => k).filter((k) => line.low[k] != null);
      const upper = there.map((k) => `${X(line.x[k])},${Y(line.high[k])}`);
      const lower = there.map((k) => `${X(line.x[k])},${Y(line.low[k])}`).reverse();
      root.append(svg("polygon", { class: "band", points: [...upper, ...lower].join(" "), fill: line.colour }));
    }
    for (const line of shown) {
      const points = line.x.map((x, k) => [x, line.y[k]]).filter(([, y]) => y != null);
      root.append(svg("polyline", {
        class: "line", points: points.map(([x, y]) => `${X(x)},${Y(y)}`).join(" "), stroke: line.colour,
        "stroke-dasharray": dashes(line),
      }));
      const every = Math.ceil(points.length / 12);
      if (line.marker) points.filter((_, k) => k % every === 0).forEach(([x, y]) => root.append(svg("path", {
        d: MARKERS[line.marker] ?? CIRCLE, transform: `translate(${X(x)} ${Y(y)})`, fill: line.colour,
      })));
    }
    cursor = svg("line", { class: "cursor", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, visibility: "hidden" });
    root.append(cursor);
    root.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (step === undefined && event.key !== "Escape") return;
      event.preventDefault();
      if (event.key === "Escape") return leave();
      point(Math.max(0, Math.min(xs.length - 1, at + step)));
    });
    root.addEventListener("blur", leave);
    canvas.replaceChildren(root, tip);
  }

  function point(index) {
    at = index;
    const x = xs[at];
    const shown = lines.filter((line) => !hidden.has(line.name));
    const rows = shown.map((line) => [line, line.x.indexOf(x)]).filter(([, k]) => k >= 0);
    tip.replaceChildren(h("p", {}, `${xLabel.split(",")[0]} ${number(x)}`), ...rows.map(([line, k]) => {
      const ends = line.low?.[k] != null ? ` [${text(line.low[k])}, ${text(line.high[k])}]` : "";
      return h("p", {}, swatch(line), h("bdi", {}, line.name), h("b", {}, ` ${text(line.y[k])}${ends}`));
    }));
    tip.hidden = false;
    const left = place(x);
    cursor.setAttribute("x1", left);
    cursor.setAttribute("x2", left);
    cursor.setAttribute("visibility", "visible");
    tip.style.left = `${Math.max(0, Math.min(left + 12, canvas.clientWidth - tip.offsetWidth))}px`;
    if (left + 12 + tip.offsetWidth > canvas.clientWidth) tip.style.left = `${Math.max(0, left - 12 - tip.offsetWidth)}px`;
  }

  function leave() {
    at = -1;
    tip.hidden = true;
    cursor?.setAttribute("visibility", "hidden");
  }

  canvas.addEventListener("pointermove", (event) => {
    const x = event.clientX - canvas.getBoundingClientRect().left;
    let best = 0;
    xs.forEach((value, k) => { if (Math.abs(place(value) - x) < Math.abs(place(xs[best]) - x)) best = k; });
    point(best);
  });
  canvas.addEventListener("pointerleave", leave);
  new ResizeObserver(draw).observe(canvas);

  if (lines.length > 1) legend.append(...lines.map((line) => h("button.plain", {
    type: "button", "aria-pressed": "true",
    onclick(event) {
      hidden.has(line.name) ? hidden.delete(line.name) : hidden.add(line.name);
      event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(line.name)));
      draw();
    },
  }, swatch(line), h("bdi", {}, line.name))));

  const heads = lines.map((line) => h("th", { scope: "col" }, h("bdi", {}, line.name)));
  const head = h("tr", {}, h("th", { scope: "col" }, xLabel), heads);
  const body = () => xs.map((x) => h("tr", {}, h("th", { scope: "row" }, number(x)), lines.map((line) => {
    const k = line.x.indexOf(x);
    const ends = k >= 0 && line.low?.[k] != null ? ` [${text(line.low[k])}, ${text(line.high[k])}]` : "";
    return h("td", {}, k < 0 ? "–" : text(line.y[k]) + ends);
  })));
  const table = h("tbody");
  const numbers = h("details", { ontoggle: () => { if (!table.firstChild) table.append(...body()); } },
    h("summary", {}, "The numbers as a table"),
    scroller(`${title}, numbers`, h("table", {}, h("caption", {}, title), h("thead", {}, head), table)));
  return h("figure.chart", {}, h("figcaption", {}, h("span", {}, yLabel), legend), canvas, numbers);
}

// A dash pattern is in line widths, as the figures' is.
const dashes = (line) => line.dash.map((d) => 1.8 * d).join(" ");

function swatch(line) {
  const across = { x1: 0, x2: 26, y1: 5, y2: 5, stroke: line.colour, "stroke-width": 2, "stroke-dasharray": dashes(line) };
  const mark = { d: MARKERS[line.marker] ?? CIRCLE, transform: "translate(13 5)", fill: line.colour };
  return svg("svg", { class: "swatch", width: 26, height: 10, "aria-hidden": "true" },
    svg("line", across), ...(line.marker ? [svg("path", mark)] : []));
}
