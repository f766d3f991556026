"use strict";
// One run, named behind the # of the address.

function settings(value, prefix = "") {
  return Object.entries(value ?? {}).flatMap(([name, each]) =>
    each !== null && typeof each === "object" && !Array.isArray(each) ? settings(each, `${prefix}${name}.`) : [[prefix + name, JSON.stringify(each)]]);
}

const definitions = (pairs) => h("dl", {}, pairs.flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, h("bdi", {}, String(text)))]));

function command(text) {
  const said = h("span", { role: "status", "aria-live": "polite" });
  const line = h("pre.command", { tabindex: 0 }, h("code", {}, text));
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(line); // where a page may not write to the clipboard
      said.textContent = "selected; copy it with the keyboard";
    }
  }
  return [line, h("p", {}, h("button", { type: "button", onclick: copy }, "Copy"), " ", said)];
}

function measured(run) {
  const scores = data.results.scores?.[run.id];
  if (!scores) return [];
  const pairs = data.results.measures.map(({ label, unit }, k) => [label, show(scores.values[k], unit)]).filter(([, text]) => text !== "–");
  return [h("h2", {}, "Measured at the last step"), definitions(pairs), h("p.fine", {}, data.results.stamp)];
}

function logged(about) {
  const { step, values } = about.metrics;
  const names = Object.keys(values).filter((name) => values[name].some((value) => value != null));
  if (!names.length) return [];
  const place = h("div");
  const tabs = h("div.tabs", { role: "group", "aria-label": "Logged value" }, names.map((name) => h("button", { type: "button", "aria-pressed": "false", onclick: () => pick(name) }, name)));
  function pick(name) {
    [...tabs.children].forEach((tab, k) => tab.setAttribute("aria-pressed", String(names[k] === name)));
    place.replaceChildren(lineChart({
      title: `${name} over step`, xLabel: "step", yLabel: name, text: number,
      lines: [{ name, colour: "var(--accent)", dash: [], x: step, y: values[name] }],
    }));
  }
  pick(names.includes("grad_norm") ? "grad_norm" : names[0]);
  const kept = step.length < about.rows ? `${step.length} of ${about.rows} logged rows, evenly spaced.` : `${about.rows} logged rows.`;
  return [h("h2", {}, "While it ran"), tabs, place, h("p.fine", {}, kept)];
}

function viewsOverSteps(run, about) {
  if (!about.steps.length) return [h("h2", {}, "Views"), h("p", {}, "No views are stored yet.")];
  const moving = film(run, about);
  const shots = about.cameras.map(() => moving.canvas());
  const last = about.steps.length - 1;
  const paint = (k) => shots.forEach((shot, view) => shot.show(about.steps[k], view));
  const figures = shots.map((shot, view) => h("figure", {}, shot.element, h("figcaption", {}, `${about.cameras[view][0]}°${about.cameras[view][1] === about.cameras[0][1] ? "" : `, elevation ${about.cameras[view][1]}°`}`)));
  const all = h("details", {}, h("summary", {}, "All steps at once"));
  all.addEventListener("toggle", () => {
    if (all.querySelector("img")) return;
    const words = `All views, a row for each of the steps ${about.steps.join(", ")}`;
    all.append(scroller("All steps", h("img.film", { src: picture(run, "film"), alt: words })), h("p.fine", {}, `${words}.`));
  });
  const out = [
    h("h2", {}, "Views over steps"),
    slider("Step", about.steps, last, (step) => `step ${step}`, paint),
    h("div.ring", {}, figures), all,
  ];
  paint(last);
  return out;
}

async function showRun() {
  const id = decodeURIComponent(location.hash.slice(1));
  const run = data.index.runs.find((each) => each.id === id);
  if (!run) {
    byId("run").replaceChildren(h("h1", {}, "No such run"), h("p", {}, "This report has no run ", h("bdi", {}, id || "without a name"), ". ", h("a", { href: "index.html" }, "All runs"), "."));
    return;
  }
  document.title = `${prompt(run)} · ${method(run)} · seed ${run.seed}`;
  let about;
  try {
    about = await record(run);
  } catch (error) {
    byId("run").replaceChildren(h("h1", {}, h("bdi", {}, prompt(run))), h("p.bad", {}, error.message));
    return;
  }
  const { failure } = about;
  const twins = data.index.runs.filter((each) => each.prompt === run.prompt && each !== run);
  byId("run").replaceChildren(...[
    h("h1", {}, h("bdi", {}, prompt(run))),
    h("p.lead", {}, h("bdi", {}, method(run)), `, seed ${run.seed}: ${standing(run)}.`),
    failure && h("section.failure", { "aria-label": "Failure" }, h("h2", {}, `Failed at step ${failure.step}`), h("p", {}, String(failure.reason)), failure.detail && h("pre", { tabindex: 0 }, failure.detail)),
    data.results.scores?.[run.id]?.problem && !failure && h("p.bad", {}, `Counted as a miss: ${data.results.scores[run.id].problem}`),
    h("p.links", {},
      twins.length && h("a", { href: `compare.html#${new URLSearchParams({ a: run.id, b: (twins.find((each) => each.seed === run.seed && each.method !== run.method) ?? twins[0]).id })}` }, "Compare"),
      about.turn && h("a", { href: picture(run, "turn") }, about.turn === "turntable" ? "Turntable" : "Turn of the ring"),
      about.mesh && h("a", { href: `media/${run.key}/object.glb`, download: `${run.key}.glb` }, "Mesh (glb)")),
    ...viewsOverSteps(run, about),
    ...measured(run),
    ...logged(about),
    h("h2", {}, "Make it again"),
    ...command(about.command),
    h("p.fine", {}, about.suite_file ? `Run it in this report's folder, which holds ${about.suite_file}.` : "Its suite is not kept beside the runs: write its prompts into prompts.txt."),
    h("details", {}, h("summary", {}, "Specification"), definitions([
      ["run", run.id], ["folder", about.path], ["suite", about.suite || "none"], ...settings(about.env),
      ...settings(about.spec.params, `${about.spec.method}.`), ...settings(about.spec.config),
    ])),
    about.log && h("details", { open: Boolean(failure) }, h("summary", {}, "Log"), h("pre", { tabindex: 0 }, about.log)),
  ].flat().filter(Boolean));
}

document.addEventListener("DOMContentLoaded", showRun);
addEventListener("hashchange", showRun);
