"use strict";
// Around the gallery: what the runs are, and below it their tables and the curves.

function summary() {
  const { runs, priors, prompts, methods } = data.index;
  const count = (status) => runs.filter((run) => run.status === status).length;
  const states = ["done", "running", "waiting", "failed", "cancelled", "damaged"].map((name) => [name, count(name)]);
  const seeds = new Set(runs.map((run) => run.seed)).size;
  const words = states.filter(([name, n]) => n || name === "failed").map(([name, n]) => `${n} ${name}`);
  const many = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  byId("summary").replaceChildren(
    `${many(runs.length, "run")} of ${many(methods.length, "method")} × ${many(prompts.length, "prompt")} × `
    + `${many(seeds, "seed")}: ${words.join(", ")}. Prior `, h("bdi", {}, priors.join(", ")), ".");
  const { damaged = [] } = data.index;
  byId("damaged").hidden = !damaged.length;
  byId("damaged").replaceChildren(h("summary", {}, `Damaged, and left out of all numbers (${damaged.length})`),
    h("ul", {}, damaged.map((line) => h("li", {}, line))));
  const rate = runs.reduce((sum, run) => sum + (run.status === "running" ? run.rate ?? 0 : 0), 0);
  const done = runs.reduce((sum, run) => sum + run.step, 0);
  const all = runs.reduce((sum, run) => sum + (run.status === "damaged" ? 0 : run.total), 0);
  const bar = byId("progress");
  bar.hidden = !runs.some((run) => ["running", "waiting"].includes(run.status));
  bar.max = all;
  bar.value = done;
  if (rate) byId("summary").append(` ${number(rate)} steps/s.`);
}

function resultTable(table) {
  const wordy = table.columns.map((_, k) => table.rows.some((row) => typeof row[k] === "string" && row[k].length > 28));
  const kind = (tag, k) => (wordy[k] ? `${tag}.long` : tag);
  const cell = (value, k) => {
    const text = Array.isArray(value)
      ? [value[0], value[1] && h("span.ends", {}, ` ${value[1]}`)]
      : [h("bdi", {}, String(value))];
    return k ? h(kind("td", k), {}, text) : h(kind("th", k), { scope: "row" }, text);
  };
  const inside = [
    scroller(table.title, h("table", {}, h("caption.hidden", {}, table.title),
      h("thead", {}, h("tr", {}, table.columns.map((name, k) => h(kind("th", k), { scope: "col" }, h("bdi", {}, name))))),
      h("tbody", {}, table.rows.map((row) => h("tr", {}, row.map(cell)))))),
    table.stamp && h("p.fine", {}, table.stamp),
    ...table.notes.map((note) => h("p.fine", {}, note)),
  ];
  return h("details.result", { open: table.open }, h("summary", {}, table.title), ...inside);
}

function numbers() {
  const { tables = [], notes = [] } = data.results;
  const told = h("details.result", { open: !tables.length }, h("summary", {}, `Notes (${notes.length})`),
    h("ul", {}, notes.map((note) => h("li", {}, note))));
  byId("numbers").replaceChildren(...tables.map(resultTable), ...(notes.length ? [told] : []));
}

function curves() {
  const found = data.results.curves ?? [];
  byId("curves-section").hidden = !found.length;
  if (!found.length) return;
  const place = h("div");
  function pick(at) {
    const each = found[at];
    const lines = each.lines.map(({ method: name, x, mean, low, high }) => {
      const look = data.index.methods.find((known) => known.name === name) ?? { dash: [], marker: "o" };
      return { name, colour: look.colour || "currentColor", dash: look.dash, marker: look.marker, x, y: mean, low, high };
    });
    const about = `Mean over ${each.prompts} prompts × ${each.seeds} seeds; band: 95 % interval over prompts, `
      + "at each point by itself.";
    place.replaceChildren(lineChart({
      title: `R-Precision over ${each.axis}`, xLabel: each.axis, yLabel: "R-Precision by majority, %", lines,
      references: each.references, from: 0, to: 1, text: (y) => String(Math.round(1000 * y) / 10),
    }), h("p.fine", {}, about));
  }
  byId("curves").replaceChildren(tabs("Over", found.map(({ reading }) => reading), pick), place);
}

function overview() {
  summary();
  numbers();
  curves();
}

document.addEventListener("DOMContentLoaded", () => {
  overview();
  byId("jump").addEventListener("click", (event) => { // the address keeps the state of the page
    event.preventDefault();
    byId("numbers-title").scrollIntoView();
    byId("numbers-title").focus({ preventScroll: true });
  });
});
