// Wire the page: load, prove, then answer to what the user gives and asks.

import { InputError, readContract, sha256 } from "./contract.js";
import { measureLatency, timeOne } from "./latency.js";
import { Model, loadRuntime, probabilities, selfTest } from "./model.js";
import { makePad } from "./pad.js";
import { decodePicture } from "./picture.js";
import { describe } from "./result.js";
import { loadTestSet, measureAccuracy } from "./testset.js";
import { combine } from "./verdict.js";
import { $, drawPixels, element, showAccuracy, showAnswer, showChecks, showError, showLatency,
  showProgress } from "./view.js";

const BATCH_SIZES = [1, 8];
const DURATION_S = 4;
const MAX_THREADS = 4;
const SERVE = "convnet-edge serve";

const page = { site: null, ort: null, entry: null, model: null, threads: 1, given: null, found: {} };

/** Fetch a file of the site. */
async function load(path) {
  const response = await fetch(path).catch((error) => {
    throw new InputError(`${path} cannot be loaded (${error.message})`, "the server to answer",
      "reload the page when it is back");
  });
  if (!response.ok) {
    throw new InputError(`${path} cannot be loaded (status ${response.status})`,
      "the whole folder on the server", "upload it again");
  }
  return response;
}

/** Run `work`; what the user can mend becomes a sentence, anything else stays an error. */
async function guard(work) {
  showError("");
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof InputError)) {
      showError(`Something unforeseen happened: ${error.message}. Reload the page.`);
      throw error;
    }
    showError(error.message);
    return null;
  }
}

function requireBrowser() {
  const needed = { WebAssembly: globalThis.WebAssembly, DecompressionStream: globalThis.DecompressionStream,
    OffscreenCanvas: globalThis.OffscreenCanvas };
  const missing = Object.keys(needed).filter((name) => !needed[name]);
  if (missing.length) {
    throw new InputError(`this browser has no ${missing.join(" and no ")}`,
      "Chrome or Edge 80, Firefox 113, Safari 16.4, or newer", "update it, or open the page in another");
  }
}

function chooseThreads() {
  const most = globalThis.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;
  const asked = Number(new URLSearchParams(location.search).get("threads")) || most;
  page.threads = Math.min(most, Math.max(1, Math.floor(asked)));
  const options = Array.from({ length: most }, (_, i) => element("option", `${i + 1}`));
  $("threads").replaceChildren(...options);
  $("threads").value = `${page.threads}`;
  $("threads").disabled = most === 1;
  $("threads-text").textContent = threadsText(most);
  $("threads").addEventListener("change", () => {
    const next = new URL(location.href);
    next.searchParams.set("threads", $("threads").value);
    location.assign(next);
  });
}

function threadsText(most) {
  if (globalThis.crossOriginIsolated) {
    return most === 1 ? "This device has one core." : "Fewer may be faster on some devices: measure.";
  }
  return globalThis.isSecureContext
    ? "One thread and a coarse clock, until the page is isolated: reload it once, or let the server "
      + "send the headers that `convnet-edge serve` sends."
    : `One thread and a coarse clock: threads need HTTPS or this computer (${SERVE}).`;
}

async function openModel(entry) {
  page.model = null; // what is asked meanwhile must not be answered by another model
  page.found = {};
  const started = performance.now();
  const bytes = new Uint8Array(await (await load(`models/${encodeURIComponent(entry.name)}`)).arrayBuffer());
  const read = performance.now();
  const digest = await sha256(bytes);
  if (digest !== null && digest !== entry.model_sha256) {
    throw new InputError(`${entry.name} is not the file that was bundled (sha256 ${digest.slice(0, 16)}…)`,
      `${entry.model_sha256.slice(0, 16)}…`, "upload the folder again, or reload the page");
  }
  const contract = await readContract(bytes);
  const checked = performance.now();
  const model = await Model.open(page.ort, bytes, contract);
  const opened = performance.now();
  const image = model.prepare(contract.goldens.images.slice(0, model.side));
  await model.run(image);
  const ran = performance.now();
  const checks = await selfTest(model);
  const start = { read_ms: read - started, check_ms: checked - read, session_ms: opened - checked,
    first_run_ms: ran - opened };
  Object.assign(page, { entry, model, found: { checks, start } });
  showChecks(checks);
  $("save").disabled = false;
  return checks.every(({ passed, skipped }) => passed || skipped);
}

/** Show the page's tools for a model that passed, and hide them for one that did not. */
async function changeModel(entry) {
  const tools = document.querySelector("main");
  $("status").textContent = `Opening ${entry.name}…`;
  $("status").className = "";
  tools.inert = true;
  const passed = await guard(() => openModel(entry));
  tools.inert = false;
  tools.hidden = !passed;
  if (!page.model) {
    $("status").textContent = `${entry.name} cannot be used.`;
    $("status").className = "bad";
    return;
  }
  for (const id of ["latency", "confusion"]) $(id).hidden = true;
  $("reasons").replaceChildren();
  $("measured").textContent = "";
  showSamples();
  if (passed && page.given) await classify(page.given);
}

function showSamples() {
  const { samples, shape } = page.model.contract;
  $("samples").replaceChildren(...samples.map(({ name, encoded, pixels }) => {
    const button = element("button", "", { type: "button", "aria-label": `Sample picture ${name}` });
    const canvas = element("canvas");
    drawPixels(canvas, pixels, shape);
    button.append(canvas);
    button.addEventListener("click", () => classify({ blob: new Blob([encoded]), name }));
    return button;
  }));
}

/** Classify what was given: { blob, name }, or { pixels, name, truth } of the test set. */
function classify(given) {
  return guard(async () => {
    page.given = given;
    const { model } = page;
    const { shape, labels } = model.contract;
    const asked = document.querySelector("input[name=invert]:checked").value;
    const invert = { auto: null, yes: true, no: false }[asked];
    const seen = given.pixels
      ? { pixels: given.pixels, isInverted: null }
      : await decodePicture(given.blob, shape, { name: given.name, invert });
    const tensor = model.prepare(seen.pixels);
    const shares = probabilities(await model.run(tensor));
    const ms = await timeOne(model, tensor);
    showAnswer({ ...given, ...seen, byBorder: invert === null }, shape, { shares, labels, ms });
  });
}

async function loadTests() {
  page.test ??= await loadTestSet(page.model.contract);
  return page.test;
}

/** Run one long measurement with progress and a Stop button; only one at a time. */
async function measure(work) {
  const stopper = new AbortController();
  const buttons = ["bench", "score", "model", "threads"].map($);
  const wasDisabled = buttons.map((button) => button.disabled);
  buttons.forEach((button) => { button.disabled = true; });
  $("stop").hidden = false;
  $("stop").onclick = () => stopper.abort();
  $("measured").className = "";
  try {
    await guard(() => work(stopper.signal));
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    showError("");
    $("measured").textContent = "Stopped; nothing of it is kept.";
  } finally {
    $("stop").hidden = true;
    showProgress(null);
    buttons.forEach((button, i) => { button.disabled = wasDisabled[i]; });
  }
}

const bench = () => measure(async (signal) => {
  const { images } = await loadTests();
  const rows = [];
  for (const [i, batchSize] of BATCH_SIZES.entries()) {
    $("measured").textContent = `Timing ${batchSize === 1 ? "one image" : `${batchSize} images`} a run; `
      + "keep this page in front.";
    const onProgress = (share) => showProgress((i + share) / BATCH_SIZES.length);
    rows.push(await measureLatency(page.model, images, { batchSize, durationS: DURATION_S, onProgress, signal }));
  }
  page.found.latency = rows;
  const reasons = rows.flatMap((row) => row.verdict.reasons.map((reason) => (
    { batch_size: row.batch_size, ...reason })));
  showLatency(rows, combine(reasons));
});

const scoreAll = () => measure(async (signal) => {
  $("measured").textContent = "Classifying the test set.";
  const test = await loadTests();
  page.found.accuracy = await measureAccuracy(page.model, test, { onProgress: showProgress, signal });
  showAccuracy(page.found.accuracy);
});

async function save() {
  const { site, entry, model, threads, found } = page;
  const result = await describe({ site, entry, model, threads, durationS: DURATION_S, ...found });
  const blob = new Blob([`${JSON.stringify(result, null, 1)}\n`], { type: "application/json" });
  const link = element("a", "", { download: `${entry.name.replace(/\.onnx$/, "")}-browser.json` });
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Take a picture from a list of files or of what was pasted. */
function take(files) {
  const [file] = files;
  if (!page.model) return;
  if (!file) {
    showError("there is no picture in it; expected a picture file; next: choose, drop or paste one");
    return;
  }
  classify({ blob: file, name: file.name || "the picture" });
}

function listen() {
  for (const id of ["file", "camera"]) {
    $(id).addEventListener("change", ({ target }) => {
      if (target.files.length) take(target.files);
      target.value = ""; // so that the same file can be chosen again
    });
  }
  document.addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    take(event.dataTransfer.files);
  });
  $("clear").addEventListener("click", makePad($("pad"), (blob) => classify({ blob, name: "Your drawing" })));
  $("test-image").addEventListener("click", () => guard(async () => {
    const { images, labels, n } = await loadTests();
    const [{ side, contract }, i] = [page.model, Math.floor(Math.random() * n)];
    const pixels = images.slice(i * side, (i + 1) * side);
    await classify({ pixels, name: `Test image ${i}`, truth: contract.labels[labels[i]] });
  }));
  document.querySelectorAll("input[name=invert]").forEach((choice) => (
    choice.addEventListener("change", () => page.given && classify(page.given))));
  $("model").addEventListener("change", ({ target }) => changeModel(page.site.models[target.selectedIndex]));
  $("bench").addEventListener("click", bench);
  $("score").addEventListener("click", scoreAll);
  $("save").addEventListener("click", save);
}

/** Keep the page for use without a network, where the browser allows it. */
async function keepOffline() {
  if (!navigator.serviceWorker) {
    $("offline").textContent = "Needs the network each time: browsers keep pages only over HTTPS.";
    return;
  }
  const hadOne = Boolean(navigator.serviceWorker.controller);
  navigator.serviceWorker.addEventListener("controllerchange", () => {
    if (hadOne) $("offline").textContent = "A newer version of this page is here: reload it.";
  });
  try {
    await navigator.serviceWorker.register("sw.js");
    await navigator.serviceWorker.ready;
    $("offline").textContent = "Works without a network from now on.";
  } catch (error) {
    $("offline").textContent = `Needs the network each time: ${error.message}`;
  }
}

async function start() {
  requireBrowser();
  chooseThreads();
  page.site = await (await load("site.json")).json();
  const { models, convnet_edge: version, onnxruntime_web: ortVersion } = page.site;
  $("versions").textContent = `convnet-edge ${version}, onnxruntime-web ${ortVersion}; `
    + `classes: ${page.site.class_labels.join(", ")}.`;
  $("model").replaceChildren(...models.map(({ name }) => element("option", name)));
  $("model-choice").hidden = models.length === 1;
  page.ort = await loadRuntime(page.threads);
  listen();
  await changeModel(models[0]);
  await keepOffline();
}

try {
  await guard(start);
} finally {
  if (!page.model && !page.ort) {
    $("status").textContent = "The page cannot work here.";
    $("status").className = "bad";
  }
}
