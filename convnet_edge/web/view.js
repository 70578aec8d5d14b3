// Put what was found on the page. Text is only ever set as text, never as HTML.

import { FLOORS, percentileMs } from "./latency.js";

export const $ = (id) => document.getElementById(id);

const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
const number = (value) => value.toLocaleString("en");

export function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Set a line of the page; `look`: "good", "bad" or nothing. */
export function say(id, text, look = "") {
  $(id).textContent = text;
  $(id).className = look;
}

/** Show the self-test; tell whether the model may be used. */
export function showChecks(checks) {
  const failed = checks.find(({ passed, skipped }) => !passed && !skipped);
  const left = checks.filter(({ skipped }) => skipped).map(({ name }) => `; ${name} not checked: needs HTTPS`);
  const goldens = checks.filter(({ name }) => name.startsWith("golden"));
  const worst = Math.max(...goldens.map(({ value }) => value));
  say("status", failed ? `Self-test: FAIL (${failed.name}: ${failed.detail})`
    : `Self-test: PASS, largest error ${worst.toExponential(1)} of ${goldens[0].limit.toExponential(1)} allowed${left.join("")}`,
  failed ? "bad" : "good");
  $("checks").replaceChildren(...checks.map(({ name, passed, skipped, detail }) => (
    element("li", `${skipped ? "–" : passed ? "✓" : "✗"} ${name}: ${detail}`))));
  return !failed;
}

/** Draw grey `pixels` on `canvas`, one a pixel. */
export function drawPixels(canvas, pixels, [height, width]) {
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  pixels.forEach((value, i) => image.data.set([value, value, value, 255], 4 * i));
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(image, 0, 0);
}

/** Show [label, share] pairs, the likeliest first, and what the network saw. */
export function showAnswer({ pixels, isInverted, byBorder, name, truth }, shape, ranked, ms) {
  drawPixels($("seen"), pixels, shape);
  const why = byBorder ? `, because its border is ${isInverted ? "bright" : "dark"}` : ", as asked";
  const how = isInverted === null ? "as in the data" : `${isInverted ? "" : "not "}inverted${why}`;
  say("seen-text", `What the network sees: ${shape.join(" × ")}, ${how}.`);
  const [[label, share]] = ranked;
  const right = truth === undefined ? "" : ` It is: ${truth}.`;
  say("answer", `${name}: ${label}, ${percent(share)}, in ${ms.toPrecision(2)} ms.${right}`);
  $("bars").replaceChildren(...ranked.map(([text, part]) => {
    const item = element("li");
    const bar = element("i", "", { "aria-hidden": "true" });
    bar.style.width = `${100 * part}%`;
    item.append(element("span", text), element("span", percent(part)), bar);
    return item;
  }));
  $("bars").scrollIntoView({ block: "nearest" }); // on a phone the answer is below the buttons
}

/** Show three percentiles, or what is missing to state them; wrong outputs make all void. */
export function showLatency(rows, tolerance) {
  const asked = Object.entries(FLOORS);
  const head = ["images", "runs", "images/s", ...asked.map(([p]) => `p${100 * p}`)];
  const body = rows.map((row) => [
    `${row.batch_size}`, number(row.n_runs), number(Math.round(row.images_per_s)),
    ...asked.map(([p, floor]) => (
      percentileMs(row.samples_ns, p)?.toFixed(3) ?? `n/a (needs ${number(floor)} runs)`))]);
  const step = (rows[0].timer_step_ns / 1000).toPrecision(2);
  $("latency").replaceChildren(table(`Milliseconds a run; the clock steps by ${step} µs`, head, body));
  const isRight = rows.every((row) => row.largest_output_error <= tolerance);
  say("measured", isRight ? "Every run is kept: save the result, and convnet-edge report judges it."
    : "INVALID: timed runs gave wrong outputs; reload the page and read its self-test.", isRight ? "" : "bad");
}

export function showAccuracy({ accuracy, interval, n, n_correct: nCorrect, classes, confusion }) {
  say("measured", `Accuracy ${percent(accuracy, 2)} (95 % interval ${percent(interval.low, 2)} to `
    + `${percent(interval.high, 2)}; ${number(nCorrect)} of ${number(n)})`);
  const labels = classes.map(({ label }) => label);
  const made = table("Confusion: a row for what it is, a column for what the network says",
    ["", ...labels, "recall"],
    confusion.map((row, i) => [labels[i], ...row.map(String), percent(classes[i].recall ?? 0)]));
  const largest = Math.max(...confusion.flat());
  confusion.forEach((row, i) => row.forEach((count, j) => {
    // the square root, so that a handful of errors can be seen beside a thousand hits
    const share = (0.45 * Math.sqrt(count / largest)).toFixed(2);
    made.tBodies[0].rows[i].cells[j + 1].style.backgroundColor = `rgb(var(--tint) / ${share})`;
  }));
  $("confusion").replaceChildren(made);
}

function table(title, head, body) {
  const made = element("table");
  made.createCaption().textContent = title;
  made.createTHead().insertRow().append(...head.map((text) => element("th", text, { scope: "col" })));
  const rows = made.createTBody();
  for (const [first, ...rest] of body) {
    const cells = rest.map((text) => element("td", text));
    rows.insertRow().append(element("th", first, { scope: "row" }), ...cells);
  }
  return made;
}
