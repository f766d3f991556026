// Keys, turning, the next pictures ahead of time, and how long the page was looked at. All of it is a comfort:
// the form works without.
"use strict";

const main = document.querySelector("main");
const form = document.querySelector('form[action="/answer"]');
const fieldsets = [...form.querySelectorAll("fieldset")];
const frames = Number(main.dataset.frames);

// ---- turning: both objects in step

const pause = document.getElementById("pause");
const angle = document.getElementById("angle");
const turns = document.getAnimations().filter((animation) => animation.animationName === "turn");
const period = turns.length ? turns[0].effect.getComputedTiming().duration : 0;

function showPaused(paused) {
  pause.textContent = paused ? "Turn" : "Pause";
}

function setPaused(paused) {
  for (const turn of turns) paused ? turn.pause() : turn.play();
  showPaused(paused);
}

function look(frame) {
  setPaused(true);
  const wrapped = (frame + frames) % frames;
  for (const turn of turns) turn.currentTime = ((wrapped + 0.5) / frames) * period;
  angle.value = wrapped;
}

function seen() {
  return Math.floor(((turns[0].currentTime % period) / period) * frames);
}

function follow() {
  if (turns[0].playState === "running") angle.value = seen();
  requestAnimationFrame(follow);
}

if (turns.length) {
  document.querySelector(".turn").hidden = false;
  for (const turn of turns) turn.currentTime = 0;
  showPaused(turns[0].playState === "paused");
  pause.addEventListener("click", () => setPaused(turns[0].playState === "running"));
  angle.addEventListener("input", () => look(Number(angle.value)));
  follow();
}

// ---- keys

const KEYS = { 1: "left", 2: "tie", 3: "right" };

function open() {
  return fieldsets.find((fieldset) => !fieldset.querySelector("input:checked"));
}

function markOpen() {
  const next = open();
  for (const fieldset of fieldsets) fieldset.classList.toggle("next-question", fieldset === next);
}

// Without a control in focus, the keys are for the marked question and the objects; in one they are its own.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const focused = event.target.closest("button, input, a");
  if (event.key in KEYS) {
    const fieldset = event.target.closest("fieldset") ?? open() ?? fieldsets.at(-1);
    fieldset.querySelector(`input[value="${KEYS[event.key]}"]`).checked = true;
    markOpen();
  } else if (focused) {
    return;
  } else if (event.key === "Enter") {
    form.requestSubmit();
  } else if (turns.length && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    look(seen() + (event.key === "ArrowRight" ? 1 : -1));
  } else if (turns.length && event.key === " ") {
    setPaused(turns[0].playState === "running");
  } else {
    return;
  }
  event.preventDefault();
});
form.addEventListener("change", markOpen);
markOpen();
document.querySelector(".keys").hidden = false;

// ---- time: what the page was visible for

let visible = 0;
let since = document.visibilityState === "visible" ? performance.now() : null;

function elapsed() {
  return visible + (since === null ? 0 : performance.now() - since);
}

document.addEventListener("visibilitychange", () => {
  visible = elapsed();
  since = document.visibilityState === "visible" ? performance.now() : null;
});

let sent = false;
form.addEventListener("submit", (event) => {
  if (sent) event.preventDefault();
  sent = true;
  form.elements.seconds.value = (elapsed() / 1000).toFixed(2);
});
window.addEventListener("pageshow", () => {
  sent = false;
});

// ---- pictures: again where one did not come, and the next comparison's ahead of time

for (const image of document.querySelectorAll(".window img")) {
  const again = () => setTimeout(() => { image.src = image.src; }, 2000);
  image.addEventListener("error", again);
  if (image.complete && !image.naturalWidth) again();
}

window.addEventListener("load", () => {
  for (const url of main.dataset.following.split(" ").filter(Boolean)) new Image().src = url;
});
