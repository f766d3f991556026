"use strict";
// What changes while runs are made: asked for every two seconds while the page is looked at.

const EVERY = 2000;

async function news() {
  const answer = await fetch(`live.json?since=${data.index.look}`);
  if (!answer.ok) throw new Error(answer.statusText);
  const told = await answer.json();
  const numbersCame = told.results !== data.index.results;
  if (numbersCame) await load(`data/results.js?v=${told.results}`);
  if (told.grown) {
    await load(`data/runs.js?v=${told.look}`);
  } else {
    for (const run of data.index.runs) {
      const change = told.runs[run.id];
      if (!change) continue;
      if (!change.rate) delete run.rate;
      Object.assign(run, change);
    }
  }
  data.index.look = told.look;
  data.index.results = told.results;
  return { grown: told.grown, numbersCame, changed: new Set(Object.keys(told.runs)) };
}

function apply({ grown, numbersCame, changed }) {
  frame();
  if (byId("gallery")) {
    if (changed.size || grown) summary();
    if (numbersCame) (numbers(), curves());
    if (grown || numbersCame) return gallery();
    for (const id of changed) tiles.get(id)?.update();
    if (changed.size && (filter.state || filter.measure)) refresh();
    else for (const row of rows) if (row.shown.some((run) => changed.has(run.id)) && !row.near) row.stale = true;
  } else if (byId("run")) {
    const id = decodeURIComponent(location.hash.slice(1));
    if (changed.has(id) || numbersCame) showRun();
  }
}

async function poll() {
  try {
    if (!document.hidden) apply(await news());
    document.documentElement.classList.remove("lost");
  } catch {
    document.documentElement.classList.add("lost"); // the server is gone; the page stays as it was
  }
  setTimeout(poll, EVERY);
}

setTimeout(poll, EVERY);
