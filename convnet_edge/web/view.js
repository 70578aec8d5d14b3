// Put what was found on the page. Text is only ever set as text, never as HTML.

import { FLOORS, percentileMs } from "./latency.js";

const N_CLASSES_SHOWN = 12;
const N_BARS = 10;
const MAX_GIVEN = 640; // pixels a side of the user's own picture

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
  say("status", failed ? `Self-test: FAIL (${failed.name}: ${failed.detail})` : `Self-test: PASS${left.join("")}`,
    failed ? "bad" : "good");
  $("proof").hidden = false;
  $("checks").replaceChildren(...checks.map(({ name, passed, skipped, detail }) => (
    element("li", `${skipped ? "–" : passed ? "✓" : "✗"} ${name}: ${detail}`))));
  return !failed;
}

/** Say which classes there are: the first ones at once, all others behind a click. */
export function showClasses(labels) {
  const [first, others] = [labels.slice(0, N_CLASSES_SHOWN), labels.slice(N_CLASSES_SHOWN)];
  say("classes", `It knows: ${first.join(", ")}${others.length ? "," : "."}`);
  const [summary, text] = $("more-classes").children;
  summary.textContent = `and ${number(others.length)} more`;
  text.textContent = `${others.join(", ")}.`;
  $("more-classes").hidden = others.length === 0;
}

/** Draw `pixels` of `shape` (H, W, C) on `canvas`, one a pixel. */
export function drawPixels(canvas, pixels, [height, width, channels]) {
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[i * channels + (channels === 3 ? c : 0)];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(image, 0, 0);
}

/** Show a decoded picture as its owner knows it. */
export function drawGiven(bitmap) {
  const scale = Math.min(1, MAX_GIVEN / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(scale * side)));
  Object.assign($("given"), { width, height });
  $("given").getContext("2d").drawImage(bitmap, 0, 0, width, height);
}

/** Show the camera's view in place of the user's own picture, or that if there is one. */
export function showView(isLive, hasGiven) {
  $("view").hidden = !isLive;
  $("own").hidden = isLive || !hasGiven;
  $("shown").classList.toggle("live", isLive);
  $("answer").setAttribute("aria-live", isLive ? "off" : "polite"); // nobody can listen to twenty a second
  $("shown").scrollIntoView({ block: "nearest" }); // on a phone it is below the buttons
}

/** Show [label, share] pairs, the likeliest first, why they are in `doubt`, and what was seen. */
export function showAnswer({ pixels, name, truth, ms, ...seen }, { shape, preprocessing }, ranked, doubt) {
  drawPixels($("seen"), pixels, shape);
  const [height, width, channels] = shape;
  say("seen-text", `What the network sees: ${height} × ${width}${channels === 1 ? " grey" : ""}${explain(seen, preprocessing)}.`);
  const [[label, share]] = ranked;
  const right = truth === undefined ? "" : ` It is: ${truth}.`;
  const said = doubt === null ? `${label}, ${percent(share)}` : `not sure: ${doubt}. Closest: ${label}, ${percent(share)}`;
  say("answer", `${name}: ${said}${ms === undefined ? "" : `, in ${ms.toPrecision(2)} ms`}.${right}`);
  $("bars").classList.toggle("unsure", doubt !== null);
  $("bars").replaceChildren(...ranked.slice(0, N_BARS).map(([text, part]) => {
    const item = element("li");
    const bar = element("i", "", { "aria-hidden": "true" });
    bar.style.width = `${100 * part}%`;
    item.append(element("span", text), element("span", percent(part)), bar);
    return item;
  }));
}

/** Return why the pixels are light on dark or dark on light, where the model cares. */
function explain({ isInverted, isAsked, unevenness }, { invert }) {
  if (invert !== "border" && !isAsked) return "";
  if (isInverted === null) return ", as it is";
  const found = unevenness === null ? `its border is ${isInverted ? "bright" : "dark"}`
    : `it is ${isInverted ? "darker" : "lighter"} than its background`;
  return `, ${isInverted ? "" : "not "}inverted, ${isAsked ? "as asked" : `because ${found}`}`;
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

/** Show a score; `stated`: the digest of the pictures that the model was exported with. */
export function showAccuracy(score, stated) {
  const { accuracy, interval, n, n_correct: hits, confusion, test_sha256: tested } = score;
  say("measured", `Accuracy ${percent(accuracy, 2)} (95 % interval ${percent(interval.low, 2)} to `
    + `${percent(interval.high, 2)}; ${number(hits)} of ${number(n)})`
    + (tested === stated ? "" : ", on other pictures than its export's"));
  $("confusion").replaceChildren(confusion.length ? matrix(score) : worstPairs(score));
}

function worstPairs({ confused }) {
  const pairs = confused.map(({ true: is, predicted, n, n_of_class: of }) => [is, predicted, n, of]);
  return table(`The worst ${pairs.length} confusions`, ["what it is", "what the network says", "pictures", "of"], pairs);
}

function matrix({ confusion, classes }) {
  const labels = classes.map(({ label }) => label);
  const made = table("Confusion: a row for what it is, a column for what the network says",
    ["", ...labels, "recall"],
    confusion.map((row, i) => {
      const { recall } = classes[i];
      return [labels[i], ...row.map(String), recall === null ? "not measured" : percent(recall)];
    }));
  const largest = Math.max(...confusion.flat());
  confusion.forEach((row, i) => row.forEach((count, j) => {
    // the square root, so that a handful of errors can be seen beside a thousand hits
    const share = (0.45 * Math.sqrt(count / largest)).toFixed(2);
    made.tBodies[0].rows[i].cells[j + 1].style.backgroundColor = `rgb(var(--tint) / ${share})`;
  }));
  return made;
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
