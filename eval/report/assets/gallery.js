"use strict";
// Every run: a row per prompt, a column per method after ground truth's, every seed. Rows are filled when they come near.

const chosen = new Set();
const filter = { suite: "", methods: new Set(), text: "", measure: "", low: "", high: "", state: "", sort: "suite" };
const measures = () => data.results.measures ?? [];
const value = (run, measure) => {
  const k = measures().findIndex(({ name }) => name === measure);
  return k < 0 ? null : data.results.scores?.[run.id]?.values[k] ?? null;
};
const measured = () => measures().find(({ name }) => name === filter.measure) ?? measures()[0];
const unit = (measure) => measures().find(({ name }) => name === measure)?.unit ?? "";
const truths = () => data.results.truth ?? {};
const truth = (row) => (Object.hasOwn(truths(), row.prompt) ? truths()[row.prompt] : null);
let rows = [];
let columns = []; // names of the methods shown

function label(run) {
  if (run.status !== "done") return run.status;
  const measure = measured();
  return measure ? show(value(run, measure.name), measure.unit) : "";
}

const STATES = {
  done: ["done", (run) => run.status === "done"],
  failed: ["failed", (run) => run.status === "failed"],
  unfinished: ["unfinished", (run) => !["done", "failed", "damaged"].includes(run.status)],
  damaged: ["damaged", (run) => run.status === "damaged"],
  miss: ["missed by majority", (run) => value(run, "majority") === 0],
};

function fits(run) {
  if (filter.suite && data.index.suites[run.suite] !== filter.suite) return false;
  if (filter.methods.size && !filter.methods.has(data.index.methods[run.method].name)) return false;
  if (filter.state && !STATES[filter.state][1](run)) return false;
  const scale = unit(filter.measure) === "%" ? 100 : 1;
  for (const [end, sign] of [["low", 1], ["high", -1]]) {
    if (!filter.measure || filter[end] === "") continue;
    const found = value(run, filter.measure);
    if (found == null || sign * (scale * found - Number(filter[end])) < -1e-9) return false;
  }
  return true;
}

// How far the methods are apart on a prompt: the range of their means of the measure over seeds.
function spread(row) {
  const means = new Map();
  for (const run of row.shown) {
    const found = value(run, measured()?.name);
    if (found != null) means.set(run.method, [...(means.get(run.method) ?? []), found]);
  }
  const each = [...means.values()].map((list) => list.reduce((a, b) => a + b) / list.length);
  return each.length > 1 ? Math.max(...each) - Math.min(...each) : -1;
}

const apart = (row) => data.results.looks?.[row.prompt] ?? -1;
const SORTS = {
  suite: ["order of the suite", () => 0],
  name: ["prompt, A–Z", (a, b) => a.prompt.localeCompare(b.prompt)],
  looks: ["disagreement: looks", (a, b) => apart(b) - apart(a)],
  measure: ["disagreement: measure", (a, b) => spread(b) - spread(a)],
  failed: ["most failures first", (a, b) => failures(b) - failures(a)],
};
const failures = (row) => row.shown.filter((run) => run.status === "failed").length;

function build() {
  rows = data.index.prompts.map((text, k) => ({ prompt: text, index: k, runs: [], shown: [], stale: true }));
  for (const run of data.index.runs) rows[run.prompt].runs.push(run);
  tiles.clear();
  watcher.disconnect();
  for (const row of rows) {
    row.title = h("h3", { id: `row-${row.index}` }, h("bdi", {}, row.prompt));
    row.body = h("div.cells");
    row.element = h("section.row", { "aria-labelledby": `row-${row.index}` }, row.title, row.body);
    row.element.row = row;
    row.element.addEventListener("keydown", walk);
  }
}

// Rows that come near are filled, if what they show has changed since.
const watcher = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    target.row.near = isIntersecting;
    if (isIntersecting) fill(target.row);
  }
}, { rootMargin: "700px 0px" });

function fill(row) {
  if (!row.stale) return;
  row.stale = false;
  const groups = new Map();
  for (const run of row.shown) {
    const name = method(run);
    groups.set(name, [...(groups.get(name) ?? []), run]);
  }
  const given = truth(row);
  const known = given && h("div.cell.given", { role: "group", "aria-label": `ground truth, ${row.prompt}` },
    h("p.method", {}, "ground truth"), truthTile(given, `ground truth, ${row.prompt}`));
  const cells = columns.map((name) => {
    const runs = groups.get(name);
    if (!runs) return h("div.cell");
    const shots = runs.map((run) => {
      const known = tiles.get(run.id);
      if (known) known.update();
      return known?.element ?? tile(run, label, chosen, choose);
    });
    return h("div.cell", { role: "group", "aria-label": `${name}, ${row.prompt}` },
      h("p.method", {}, dot(runs[0].method), h("bdi", {}, name)), h("div.shots", {}, shots));
  });
  row.body.replaceChildren(...(Object.keys(truths()).length ? [known ?? h("div.cell.given")] : []), ...cells);
  const links = [...row.body.querySelectorAll(".shot")];
  links.forEach((link, k) => { link.tabIndex = k ? -1 : 0; });
  row.element.style.containIntrinsicSize = `auto ${row.element.offsetHeight}px`;
}

function dot(index) {
  const element = h("span.dot", { "aria-hidden": "true" });
  element.style.backgroundColor = colour(index);
  return element;
}

// One stop of the Tab key per row; the arrows move inside it and between rows.
function walk(event) {
  const link = event.target.closest(".shot");
  if (!link || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) return;
  event.preventDefault();
  let row = event.currentTarget.row;
  let links = [...row.body.querySelectorAll(".shot")];
  let at = links.indexOf(link);
  if (event.key === "ArrowUp" || event.key === "ArrowDown") {
    const shown = [...byId("gallery").children];
    const next = shown[shown.indexOf(row.element) + (event.key === "ArrowUp" ? -1 : 1)];
    if (!next) return;
    row = next.row;
    fill(row);
    links = [...row.body.querySelectorAll(".shot")];
    at = Math.min(at, links.length - 1);
  } else at = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: links.length - 1 }[event.key];
  const target = links[Math.max(0, Math.min(links.length - 1, at))];
  links.forEach((each) => { each.tabIndex = each === target ? 0 : -1; });
  target.focus({ focusVisible: true });
}

function refresh() {
  const wanted = filter.text.trim().toLocaleLowerCase();
  for (const row of rows) {
    row.shown = !wanted || row.prompt.toLocaleLowerCase().includes(wanted) ? row.runs.filter(fits) : [];
    row.stale = true;
  }
  const visible = rows.filter((row) => row.shown.length);
  visible.sort((a, b) => SORTS[filter.sort][1](a, b) || a.index - b.index);
  layout(visible);
  byId("gallery").replaceChildren(...visible.map((row) => row.element));
  for (const row of rows) watcher.unobserve(row.element);
  for (const row of visible) watcher.observe(row.element);
  byId("meaning").textContent = measured() ? `Beside each seed: ${measured().label}.` : "";
  const runs = visible.reduce((sum, row) => sum + row.shown.length, 0);
  byId("count").textContent = `${runs} of ${data.index.runs.length} runs, ${visible.length} of ${rows.length} prompts`;
}

// Columns are alike in all rows; the sheet makes pictures as large as those side by side have room.
function layout(visible) {
  const shown = visible.flatMap((row) => row.shown);
  const named = new Map(shown.map((run) => [method(run), run]));
  columns = [...named].sort(([, a], [, b]) => a.method - b.method || a.total - b.total).map(([name]) => name);
  const seeds = Math.min(5, new Set(shown.map((run) => run.seed)).size);
  const given = Object.keys(truths()).length ? 1 : 0;
  for (const [name, value] of Object.entries({ columns: columns.length, seeds: seeds || 1, given })) {
    byId("gallery").style.setProperty(`--${name}`, value);
  }
}

addEventListener("beforeprint", () => rows.filter((row) => row.shown.length).forEach(fill));

function remember() {
  const { methods, ...plain } = filter;
  if (plain.sort === "suite") plain.sort = "";
  query.write({ ...plain, methods: [...methods], chosen: [...chosen] });
}

function recall() {
  const asked = query.read();
  for (const name of ["suite", "text", "measure", "low", "high", "state", "sort"]) {
    filter[name] = asked.get(name) ?? filter[name];
  }
  if (!Object.hasOwn(SORTS, filter.sort)) filter.sort = "suite";
  if (!Object.hasOwn(STATES, filter.state)) filter.state = "";
  for (const name of asked.getAll("methods")) filter.methods.add(name);
  for (const id of asked.getAll("chosen").slice(0, 2)) if (data.index.runs.some((run) => run.id === id)) chosen.add(id);
}

let offered = ""; // by the form as it stands: it is made anew only where that changes, since somebody may be typing

function filters(anew) {
  const offers = JSON.stringify([data.index.suites, data.index.methods, measures()]);
  if (offers === offered && !anew) return;
  offered = offers;
  const set = (name) => (event) => {
    filter[name] = event.target.value;
    if (name === "measure") ends();
    changed();
  };
  const { suites, methods } = data.index;
  const low = h("input", { type: "number", step: "any", value: filter.low, oninput: set("low"), "aria-label": "At least" });
  const high = h("input", { type: "number", step: "any", value: filter.high, oninput: set("high"), "aria-label": "At most" });
  const ends = () => { low.disabled = high.disabled = !filter.measure; };
  ends();
  const named = suites.filter(Boolean).map((name) => [name, name]);
  const states = Object.entries(STATES).map(([name, [text]]) => [name, text]);
  const measurable = measures().map((each) => [each.name, each.unit ? `${each.label}, ${each.unit}` : each.label]);
  const words = { type: "search", value: filter.text, placeholder: "words of it", oninput: set("text") };
  const boxes = methods.map(({ name }, k) => h("label.check", {}, h("input", {
    type: "checkbox", checked: filter.methods.has(name),
    onchange(event) {
      event.target.checked ? filter.methods.add(name) : filter.methods.delete(name);
      changed();
    },
  }), dot(k), h("bdi", {}, name)));
  const form = [
    h("label", {}, h("span", {}, "Prompt"), h("input", words)),
    suites.length > 1 && select("Suite", [["", "all"], ...named], filter.suite, set("suite")),
    select("State", [["", "all"], ...states], filter.state, set("state")),
    measures().length && select("Measure", [["", "any"], ...measurable], filter.measure, set("measure")),
    measures().length && h("div.range", { role: "group", "aria-label": "Range of the measure" },
      h("span", {}, "From, to"), h("div", {}, low, high)),
    select("Sort", Object.entries(SORTS).map(([name, [text]]) => [name, text]), filter.sort, set("sort")),
    h("div.all", {}, h("fieldset", {}, h("legend", {}, "Methods"), boxes), h("button", { type: "reset" }, "Clear")),
  ];
  byId("filters").replaceChildren(...form.filter(Boolean));
}

function changed() {
  refresh();
  remember();
}

function choose(run) {
  chosen.has(run.id) ? chosen.delete(run.id) : chosen.add(run.id);
  while (chosen.size > 2) chosen.delete(chosen.values().next().value);
  for (const each of tiles.values()) each.mark();
  tray();
  remember();
}

function tray() {
  const runs = [...chosen].map((id) => data.index.runs.find((run) => run.id === id));
  byId("tray").hidden = !runs.length;
  if (!runs.length) return;
  const link = new URLSearchParams({ a: runs[0].id, b: runs[1]?.id ?? "" });
  byId("tray").replaceChildren(
    h("ul", {}, runs.map((run) => h("li", {}, names(run),
      h("button.plain", { type: "button", "aria-label": "Remove", onclick: () => choose(run) }, "✕")))),
    runs.length === 2
      ? h("a.button", { href: `compare.html#${link}` }, "Compare")
      : h("span.fine", {}, "choose another to compare"));
}

function gallery() {
  build();
  filters();
  refresh();
  tray();
}

document.addEventListener("DOMContentLoaded", () => {
  recall();
  gallery();
  if (matchMedia("(max-width: 40rem)").matches && !location.hash) byId("choosing").open = false; // pictures first
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => {
    filter.methods.clear();
    Object.assign(filter, { suite: "", text: "", measure: "", low: "", high: "", state: "", sort: "suite" });
    filters(true);
    changed();
  });
});
