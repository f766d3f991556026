"use strict";
// One run, named behind the # of the address.

// Nested settings as [dotted name, value] pairs.
function settings(value, prefix = "") {
  return Object.entries(value ?? {}).flatMap(([name, each]) => {
    const nested = each !== null && typeof each === "object" && !Array.isArray(each);
    return nested ? settings(each, `${prefix}${name}.`) : [[prefix + name, JSON.stringify(each)]];
  });
}

function definitions(pairs) {
  return h("dl", {}, pairs.flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, h("bdi", {}, String(text)))]));
}

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
  const all = data.results.measures.map(({ label, unit }, k) => [label, show(scores.values[k], unit)]);
  const pairs = all.filter(([, text]) => text !== "–");
  return [h("h2", {}, "Measured at the last step"), definitions(pairs), h("p.fine", {}, data.results.stamp)];
}

function logged(about) {
  const { step, values } = about.metrics;
  const shown = Object.keys(values).filter((name) => values[name].some((value) => value != null));
  if (!shown.length) return [];
  const place = h("div");
  const pick = (at) => {
    const name = shown[at];
    place.replaceChildren(lineChart({
      title: `${name} over step`, xLabel: "step", yLabel: name, text: number,
      lines: [{ name, colour: "var(--accent)", dash: [], x: step, y: values[name] }],
    }));
  };
  const choice = tabs("Logged value", shown, pick, Math.max(0, shown.indexOf("grad_norm")));
  const thinned = step.length < about.rows;
  const kept = thinned ? `${step.length} of ${about.rows} logged rows, evenly spaced.` : `${about.rows} logged rows.`;
  return [h("h2", {}, "While it ran"), choice, place, h("p.fine", {}, kept)];
}

function viewsOverSteps(run, about) {
  if (!about.steps.length) return [h("h2", {}, "Views"), h("p", {}, "No views are stored yet.")];
  const moving = film(run, about);
  const shots = about.cameras.map(() => moving.canvas());
  const last = about.steps.length - 1;
  const paint = (k) => shots.forEach((shot, view) => shot.show(about.steps[k], view));
  const [[, ring]] = about.cameras;
  const captions = about.cameras.map(([azimuth, elevation]) =>
    elevation === ring ? `${azimuth}°` : `${azimuth}°, elevation ${elevation}°`);
  const figures = shots.map((shot, view) => h("figure", {}, shot.element, h("figcaption", {}, captions[view])));
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
    byId("run").replaceChildren(h("h1", {}, "No such run"), h("p", {}, "There is no run ",
      h("bdi", {}, id || "without a name"), " here. ", h("a", { href: "index.html" }, "All runs"), "."));
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
  const problem = data.results.scores?.[run.id]?.problem;
  const twins = data.index.runs.filter((each) => each.prompt === run.prompt && each !== run);
  const twin = twins.find((each) => each.seed === run.seed && each.method !== run.method) ?? twins[0];
  byId("run").replaceChildren(...[
    h("h1", {}, h("bdi", {}, prompt(run))),
    h("p.lead", {}, h("bdi", {}, method(run)), `, seed ${run.seed}: ${standing(run)}.`),
    failure && h("section.failure", { "aria-label": "Failure" }, h("h2", {}, `Failed at step ${failure.step}`),
      h("p", {}, String(failure.reason)), failure.detail && h("pre", { tabindex: 0 }, failure.detail)),
    problem && !failure && h("p.bad", {}, `Counted as a miss: ${problem}`),
    h("p.links", {},
      twin && h("a", { href: `compare.html#${new URLSearchParams({ a: run.id, b: twin.id })}` }, "Compare"),
      about.turn && h("a", { href: picture(run, "turn") }, about.turn === "turntable" ? "Turntable" : "Turn of the ring"),
      about.mesh && h("a", { href: `media/${run.key}/object.glb`, download: `${run.key}.glb` }, "Mesh (glb)")),
    ...viewsOverSteps(run, about),
    ...measured(run),
    ...logged(about),
    h("h2", {}, "Make it again"),
    ...command(about.command),
    h("p.fine", {}, about.suite_file
      ? `Run it in the report's folder, which holds ${about.suite_file}.`
      : "Its suite is not kept beside the runs: write its prompts into prompts.txt."),
    h("details", {}, h("summary", {}, "Specification"), definitions([
      ["run", run.id], ["folder", about.path], ["suite", about.suite || "none"], ...settings(about.env),
      ...settings(about.spec.params, `${about.spec.method}.`), ...settings(about.spec.config),
    ])),
    about.log && h("details", { open: Boolean(failure) }, h("summary", {}, "Log"), h("pre", { tabindex: 0 }, about.log)),
  ].flat().filter(Boolean));
}

document.addEventListener("DOMContentLoaded", showRun);
addEventListener("hashchange", showRun);
