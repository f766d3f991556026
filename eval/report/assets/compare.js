"use strict";
// Any two runs at the same step and view.

const sides = { a: null, b: null };
const at = { step: Infinity, view: 0 };

function find(part, run) {
  const { runs } = data.index;
  const same = (each, names) => names.every((name) => each[name] === part[name]);
  const near = [["prompt", "method", "total", "seed"], ["prompt", "method", "total"], ["prompt", "method"], ["prompt"]];
  for (const names of near) {
    const found = runs.find((each) => same(each, names));
    if (found) return found;
  }
  return run;
}

function chooser(side) {
  const run = sides[side];
  const { prompts, methods, totals, runs } = data.index;
  const change = (name) => (event) => set({ [side]: find({ ...run, [name]: Number(event.target.value) }, run) });
  const own = runs.filter((each) => each.prompt === run.prompt && each.method === run.method && each.total === run.total);
  const here = new Set(runs.filter((each) => each.prompt === run.prompt).map((each) => each.method));
  return h("fieldset.chooser", {}, h("legend", {}, side.toUpperCase()),
    select("Prompt", prompts.map((text, k) => [k, text]), run.prompt, change("prompt")),
    select("Method", methods.map(({ name }, k) => [k, name]).filter(([k]) => here.has(k)), run.method, change("method")),
    totals.length > 1 && select("N", totals.map((n) => [n, n]), run.total, change("total")),
    select("Seed", own.map(({ seed }) => [seed, seed]), run.seed, change("seed")));
}

let drawings = 0;

async function draw() {
  const mine = ++drawings;
  const runs = [sides.a, sides.b];
  const abouts = [];
  for (const run of runs) abouts.push(await record(run));
  if (mine !== drawings) return; // another choice came meanwhile
  const films = runs.map((run, k) => film(run, abouts[k]));
  const shots = films.map((each) => each.canvas());
  const notes = runs.map(() => h("p.fine"));
  const steps = [...new Set(abouts.flatMap((about) => about.steps))].sort((x, y) => x - y);
  const cameras = abouts[0].cameras.length <= abouts[1].cameras.length ? abouts[0].cameras : abouts[1].cameras;
  let k = Math.max(0, steps.findLastIndex((step) => step <= at.step));
  at.view = Math.min(at.view, cameras.length - 1);
  const paint = () => {
    at.step = steps[k] ?? 0;
    shots.forEach((shot, side) => {
      shot.show(at.step, at.view);
      const row = films[side].row(at.step);
      const scores = data.results.scores?.[runs[side].id];
      const place = scores?.steps.indexOf(abouts[side].steps[row]) ?? -1;
      const share = place >= 0 ? ` · retrieved from ${show(scores.per_view[place], "%")} of the views` : "";
      notes[side].textContent = row < 0 ? "no views yet" : `step ${abouts[side].steps[row]} of ${runs[side].total}${share}`;
    });
    query.write({ a: runs[0].id, b: runs[1].id, step: at.step, view: at.view });
  };
  const halves = runs.map((run, side) => h("figure.half", {},
    shots[side].element,
    h("figcaption", {},
      h("a", { href: runLink(run) }, names(run)),
      run.status !== "done" && h("p.bad", {}, standing(run)), notes[side])));
  byId("stage").replaceChildren(
    h("div.sliders", {},
      slider("Step", steps.length ? steps : [0], k, (step) => `step ${step}`, (to) => { k = to; paint(); }),
      slider("View", cameras, at.view, cameraWords, (to) => { at.view = to; paint(); })),
    h("div.halves", {}, halves));
  paint();
}

const selects = () => [...byId("choosers").querySelectorAll("select")];

function set(change) {
  const focus = selects().indexOf(document.activeElement);
  Object.assign(sides, change);
  byId("choosers").replaceChildren(chooser("a"), chooser("b"));
  selects()[focus]?.focus();
  draw();
}

// Both sides to the next prompt of the suite, or back.
function move(by) {
  const { prompts } = data.index;
  const to = (run) => find({ ...run, prompt: (run.prompt + by + prompts.length) % prompts.length }, run);
  set({ a: to(sides.a), b: to(sides.b) });
}

document.addEventListener("DOMContentLoaded", () => {
  const { runs } = data.index;
  const asked = query.read();
  const named = (name) => runs.find((run) => run.id === asked.get(name));
  const a = named("a") ?? runs[0];
  const twin = (run) => run.prompt === a.prompt && run.seed === a.seed && run.method !== a.method;
  const b = named("b") ?? runs.find(twin) ?? runs[1] ?? a;
  if (asked.get("step")) at.step = Number(asked.get("step"));
  at.view = Number(asked.get("view")) || 0;
  byId("compare").append(
    h("div", { id: "choosers" }),
    h("div.buttons", {},
      h("button", { type: "button", onclick: () => move(-1) }, "← Previous prompt"),
      h("button", { type: "button", onclick: () => move(1) }, "Next prompt →"),
      h("button", { type: "button", onclick: () => set({ a: sides.b, b: sides.a }) }, "Swap")),
    h("div", { id: "stage" }));
  set({ a, b });
});
