// Put what was found on the page. Text is only ever set as text, never as HTML.

export const $ = (id) => document.getElementById(id);

const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
const number = (value) => value.toLocaleString("en");

export function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Say what went wrong, or take it back with an empty text. */
export function showError(text) {
  $("error").textContent = text;
  $("error").className = "bad";
  $("error").hidden = !text;
}

export function showChecks(checks) {
  const failed = checks.filter(({ passed, skipped }) => !passed && !skipped);
  const goldens = checks.filter(({ name }) => name.startsWith("golden"));
  const worst = Math.max(...goldens.map(({ value }) => value ?? Infinity));
  const text = `largest error ${worst.toExponential(1)} of ${goldens[0].limit.toExponential(1)} allowed`;
  $("status").textContent = failed.length
    ? `Self-test: FAIL (${failed[0].name}: ${failed[0].detail})`
    : `Self-test: PASS, ${text}`;
  $("status").className = failed.length ? "bad" : "good";
  $("checks").replaceChildren(...checks.map(({ name, passed, skipped, detail }) => (
    element("li", `${skipped ? "–" : passed ? "✓" : "✗"} ${name}: ${detail}`))));
}

/** Draw grey `pixels` on `canvas`, one a pixel. */
export function drawPixels(canvas, pixels, [height, width]) {
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  pixels.forEach((value, i) => image.data.set([value, value, value, 255], 4 * i));
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(image, 0, 0);
}

export function showAnswer({ pixels, isInverted, byBorder, name, truth }, shape, found) {
  drawPixels($("seen"), pixels, shape);
  const why = byBorder ? `, because its border is ${isInverted ? "bright" : "dark"}` : ", as asked";
  $("seen-text").textContent = isInverted === null
    ? `What the network sees: ${shape.join(" × ")}, as in the data.`
    : `What the network sees: ${shape.join(" × ")}, ${isInverted ? "" : "not "}inverted${why}.`;
  const order = found.shares.map((share, i) => [found.labels[i], share]).sort((a, b) => b[1] - a[1]);
  const right = truth === undefined ? "" : ` It is: ${truth}.`;
  $("answer").textContent = `${name}: ${order[0][0]}, ${percent(order[0][1])}, `
    + `in ${found.ms.toPrecision(2)} ms.${right}`;
  $("bars").replaceChildren(...order.map(([label, share]) => {
    const item = element("li");
    const bar = element("i", "", { "aria-hidden": "true" });
    bar.style.width = `${100 * share}%`;
    item.append(element("span", label), element("span", percent(share)), bar);
    return item;
  }));
  $("bars").scrollIntoView({ block: "nearest" }); // on a phone the answer is below the buttons
}

export function showProgress(share) {
  $("progress").hidden = share === null;
  $("progress").value = share ?? 0;
}

export function showLatency(rows, { status, reasons }) {
  const head = ["images", "runs", "images/s", "mean", ...rows[0].percentiles_ms.map(({ p }) => (
    `p${+(100 * p).toFixed(1)}`))];
  const body = rows.map((row) => [
    `${row.batch_size}`, number(row.n_runs), number(Math.round(row.images_per_s)),
    row.mean_ms.toFixed(3), ...row.percentiles_ms.map((found) => percentileText(found, row))]);
  $("latency").replaceChildren(table("Latency, milliseconds a run", head, body));
  $("latency").hidden = false;
  $("reasons").replaceChildren(...reasons.map(({ batch_size, name, text }) => (
    element("li", `batch ${batch_size}: ${name}: ${text}`))));
  $("measured").textContent = `Verdict: ${status}`;
  $("measured").className = { VALID: "good", NOISY: "noisy", INVALID: "bad" }[status];
}

function percentileText({ value, floor }, row) {
  if (value !== null) return value.toFixed(3);
  return row.n_runs_timed_together > 1 ? "n/a (coarse clock)" : `n/a (needs ${number(floor)})`;
}

export function showAccuracy({ accuracy, interval, n, n_correct: nCorrect, classes, confusion }) {
  $("measured").textContent = `Accuracy ${percent(accuracy, 2)} (95 % interval `
    + `${percent(interval.low, 2)} to ${percent(interval.high, 2)}; ${number(nCorrect)} of `
    + `${number(n)})`;
  $("measured").className = "";
  const labels = classes.map(({ label }) => label);
  const made = table("Confusion: a row for what it is, a column for what the network says",
    ["", ...labels, "recall"],
    confusion.map((row, i) => [labels[i], ...row.map(String), percent(classes[i].recall ?? 0)]));
  const largest = Math.max(...confusion.flat());
  made.querySelectorAll("tbody tr").forEach((row, i) => (
    row.querySelectorAll("td").forEach((cell, j) => {
      if (j < labels.length) shade(cell, confusion[i][j] / largest);
    })));
  $("confusion").replaceChildren(made);
  $("confusion").hidden = false;
}

function shade(cell, share) {
  // the square root, so that a handful of errors can be seen beside a thousand hits
  cell.style.backgroundColor = `rgb(var(--tint) / ${(0.45 * Math.sqrt(share)).toFixed(2)})`;
}

function table(title, head, body) {
  const made = element("table");
  const top = element("tr");
  top.append(...head.map((text) => element("th", text, { scope: "col" })));
  const rows = body.map(([first, ...rest]) => {
    const row = element("tr");
    row.append(element("th", first, { scope: "row" }), ...rest.map((text) => element("td", text)));
    return row;
  });
  const [thead, tbody] = [element("thead"), element("tbody")];
  thead.append(top);
  tbody.append(...rows);
  made.append(element("caption", title), thead, tbody);
  return made;
}
