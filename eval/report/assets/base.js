"use strict";
// What every page uses. Text from runs reaches the page as text nodes and attributes only, never as HTML.

const data = {}; // filled by the scripts of data/
const live = "live" in document.documentElement.dataset;

const policy = globalThis.trustedTypes?.createPolicy("harness", {
  createScriptURL(path) {
    if (/^data\/(run\/)?[\w.-]+\.js(\?v=[\w.-]+)?$/.test(path)) return path;
    throw new TypeError(`not a script of this report: ${path}`);
  },
});

// h("a.tile", {href}, "text", node, …): an element; null and false children are left out.
function h(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

const byId = (id) => document.getElementById(id);

// Load data/….js, which leaves its value in `data`; rejected where there is none.
function load(path) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = policy ? policy.createScriptURL(path) : path;
    script.onload = () => (script.remove(), resolve());
    script.onerror = () => (script.remove(), reject(new Error(`${path} cannot be read`)));
    document.head.append(script);
  });
}

let loading = Promise.resolve();

// A run's own record, one after the other: each leaves its value in the same place.
function record(run) {
  const next = loading.then(() => load(`data/run/${run.key}.js${live ? `?v=${run.step}-${Date.now()}` : ""}`));
  loading = next.catch(() => {});
  return next.then(() => data.run);
}

const picture = (run, name) => `media/${run.key}/${name}.webp${live ? `?step=${run.views}` : ""}`;
const method = (run) => {
  const name = data.index.methods[run.method].name;
  return data.index.totals.length > 1 ? `${name}, N = ${run.total}` : name;
};
const prompt = (run) => data.index.prompts[run.prompt];
const names = (run) => [h("bdi", {}, method(run)), " · ", h("bdi", {}, prompt(run)), ` · seed ${run.seed}`];
const runLink = (run) => `run.html#${encodeURIComponent(run.id)}`;
const colour = (index) => data.index.methods[index].colour || "currentColor";

// A value of a measure: shares in per cent, anything else as it is.
function show(value, unit) {
  if (value == null) return "–";
  return unit === "%" ? `${Math.round(100 * value)} %` : String(Number(value.toPrecision(3)));
}

// A short, exact-enough number for axes and tooltips.
function number(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(2).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

// Where a run stands, in words.
function standing(run) {
  if (run.status === "done") return "done";
  if (run.status === "failed") return `failed: ${run.failure ?? "unknown reason"}`;
  if (run.status === "damaged") return run.failure ?? "damaged";
  const where = run.step ? `step ${run.step} of ${run.total}` : "not started";
  return run.status === "cancelled" ? `cancelled, ${where}` : run.status === "running" ? `running, ${where}` : where;
}

const query = {
  // The state of a page lives behind the # of its address, so that it can be sent to others.
  read: () => new URLSearchParams(location.hash.slice(1)),
  write(entries) {
    const pairs = Object.entries(entries).flatMap(([name, value]) => [value].flat().map((each) => [name, each]));
    const text = new URLSearchParams(pairs.filter(([, value]) => value !== "")).toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  },
};

// A select of [value, label] pairs under its label.
function select(label, pairs, chosen, onchange) {
  const options = pairs.map(([value, text]) => h("option", { value, selected: String(value) === String(chosen) }, text));
  return h("label", {}, h("span", {}, label), h("select", { onchange }, options));
}

// Buttons of which one is pressed; `pick` is told its place, the first one's at once.
function tabs(label, names, pick, first = 0) {
  const press = (at) => {
    buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(k === at)));
    pick(at);
  };
  const buttons = names.map((name, k) => h("button", { type: "button", onclick: () => press(k) }, name));
  press(first);
  return h("div.tabs", { role: "group", "aria-label": label }, buttons);
}

function scroller(label, ...children) {
  return h("div.scroll", { tabindex: 0, role: "region", "aria-label": label }, ...children);
}

function theme() {
  const order = ["auto", "light", "dark"];
  const store = {
    get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("theme", value); } catch { /* a browser that keeps nothing */ } },
  };
  let chosen = order.includes(store.get()) ? store.get() : "auto";
  const apply = () => {
    document.documentElement.dataset.theme = chosen;
    byId("theme").textContent = `Theme: ${chosen}`;
  };
  byId("theme").addEventListener("click", () => {
    chosen = order[(order.indexOf(chosen) + 1) % order.length];
    store.set(chosen);
    apply();
  });
  apply();
}

function frame() {
  const { mark, priors } = data.index;
  byId("mark").textContent = mark || `prior ${priors.join(", ")}`;
  byId("mark").classList.toggle("prior", !mark);
  byId("stamp").textContent = data.results.stamp ?? `${mark ? `${mark} · ` : ""}prior ${priors.join(", ")}`;
}

document.addEventListener("DOMContentLoaded", () => (theme(), frame()));
