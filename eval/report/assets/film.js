"use strict";
// A run's film: every view of every stored step in one picture, shown a tile at a time.

function film(run, about) {
  const image = new Image();
  const drawn = [];
  image.addEventListener("load", () => { image.ready = true; redraw(); });
  if (about.steps.length) image.src = picture(run, "film");

  function redraw() {
    for (const { canvas, step, view } of drawn) paint(canvas, step, view);
  }

  // The row of the last stored step that is not past `step`; -1 before the first.
  const row = (step) => about.steps.findLastIndex((each) => each <= step);

  function paint(canvas, step, view) {
    const k = row(step);
    const context = canvas.getContext("2d");
    const words = k < 0 ? "no views yet" : `step ${about.steps[k]}`;
    const whose = `${method(run)}, ${prompt(run)}, seed ${run.seed}`;
    canvas.setAttribute("aria-label", `${whose}: ${words}, ${cameraWords(about.cameras[view])}`);
    if (k < 0 || !image.ready) return context.clearRect(0, 0, canvas.width, canvas.height);
    const side = image.naturalWidth / about.cameras.length;
    if (canvas.width !== side) canvas.width = canvas.height = side;
    context.drawImage(image, view * side, k * side, side, side, 0, 0, side, side);
  }

  // A canvas that shows a view; give the place again to move it.
  function canvas() {
    const element = h("canvas.still", { role: "img", width: 64, height: 64 });
    const place = { canvas: element, step: 0, view: 0 };
    drawn.push(place);
    return { element, show(step, view) { Object.assign(place, { step, view }); paint(element, step, view); } };
  }

  return { canvas, row };
}

// A slider over `values` with its value in words; `onmove` is told the index.
function slider(name, values, at, words, onmove) {
  const output = h("output", {}, words(values[at]));
  const input = h("input", {
    type: "range", min: 0, max: Math.max(0, values.length - 1), step: 1, value: at, disabled: values.length < 2,
    "aria-label": name, "aria-valuetext": words(values[at]),
    oninput(event) {
      const k = Number(event.target.value);
      output.textContent = words(values[k]);
      event.target.setAttribute("aria-valuetext", words(values[k]));
      onmove(k);
    },
  });
  input.value = at;
  return h("label.slider", {}, h("span", {}, name), input, output);
}

const cameraWords = ([azimuth, elevation]) => `azimuth ${azimuth}°, elevation ${elevation}°`;
