"use strict";
// One run of the gallery: its picture, which turns on hover and focus, or what stands in its place.

const still = matchMedia("(prefers-reduced-motion: reduce)");
const tiles = new Map(); // run id → {element, update, mark}

// Ground truth of a prompt, {key, turn}: no run, so it leads nowhere and is not chosen.
function truthTile({ key, turn }, words) {
  const source = (name) => `media/${key}/${name}.webp`;
  const image = h("img", { loading: "lazy", decoding: "async", alt: words, width: 96, height: 96, src: source("thumb") });
  const put = (name) => () => { if (turn && !still.matches) image.src = source(name); };
  return h("figure.tile", { onpointerenter: put("turn"), onpointerleave: put("thumb") }, h("span.true", {}, image));
}

// A tile of `run`; `label(run)` is what stands under it, `chosen` the set of ids picked for comparison.
function tile(run, label, chosen, choose) {
  const link = h("a.shot", { href: runLink(run), tabindex: -1, "data-run": run.id });
  const caption = h("figcaption");
  const act = { type: "button", tabindex: -1 }; // by keyboard the picture itself takes Space and C
  const play = h("button.act.play", { ...act, "aria-label": "Turn", onclick: () => turn(!turning) }, "▶");
  const pick = h("button.act.pick", { ...act, onclick: () => choose(run) }, "⇄");
  const element = h("figure.tile", {}, link, play, pick, caption);
  let turning = false;
  let image = null;

  function turn(on) {
    if (!image || !run.turn || on === turning) return;
    turning = on;
    image.src = picture(run, on ? "turn" : "thumb");
    element.classList.toggle("turning", on);
  }

  function update() {
    const words = `${method(run)}, ${prompt(run)}, seed ${run.seed}`;
    link.setAttribute("aria-label", `${words}: ${standing(run)}`);
    element.dataset.status = run.status;
    caption.replaceChildren(h("span", {}, `seed ${run.seed}`), h("b", {}, label(run)));
    pick.setAttribute("aria-label", `Choose ${words} for comparison`);
    mark();
    if (["failed", "damaged"].includes(run.status) || !run.thumb) {
      image = null;
      link.replaceChildren(h("span.words", { title: standing(run) }, standing(run)));
    } else if (!image) {
      image = h("img", { loading: "lazy", decoding: "async", alt: "", width: 96, height: 96, src: picture(run, "thumb") });
      image.addEventListener("error", () => link.replaceChildren(h("span.words", {}, "unreadable")));
      link.replaceChildren(image);
    } else if (!turning && !image.src.endsWith(picture(run, "thumb"))) image.src = picture(run, "thumb");
    if (image) {
      image.alt = `${words}, step ${run.views}`;
      link.querySelector(".badge")?.remove();
      if (run.status !== "done") link.append(h("span.badge", {}, `${run.step}/${run.total}`));
    }
    element.classList.toggle("turns", Boolean(image && run.turn));
  }

  function mark() {
    pick.setAttribute("aria-pressed", String(chosen.has(run.id)));
    element.classList.toggle("chosen", chosen.has(run.id));
  }

  element.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse" && !still.matches) turn(true); });
  element.addEventListener("pointerleave", () => { if (document.activeElement !== link) turn(false); });
  link.addEventListener("focus", () => { if (!still.matches && link.matches(":focus-visible")) turn(true); });
  link.addEventListener("blur", () => turn(false));
  link.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " ") (event.preventDefault(), turn(!turning));
    else if (event.key.toLowerCase() === "c") (event.preventDefault(), choose(run));
  });
  update();
  tiles.set(run.id, { element, update, mark });
  return element;
}
