// Wire the page: load, prove, then answer to what the user gives and asks.

import { InputError, readContract, sha256 } from "./contract.js";
import { watch } from "./camera.js";
import { measureLatency } from "./latency.js";
import { Model, findDoubt, rank, selfTest } from "./model.js";
import { makePad } from "./pad.js";
import { decodePicture, fitBitmap } from "./picture.js";
import { describe } from "./result.js";
import { measureAccuracy, readTestSet } from "./testset.js";
import {
  $, drawGiven, drawPixels, element, say, showAccuracy, showAnswer, showChecks, showClasses, showLatency, showView,
} from "./view.js";

const BATCH_SIZES = [1, 8];
const MAX_THREADS = 4;
const TEST_SET = "test-set.npz";

const page = { site: null, ort: null, model: null, threads: 1, given: null, live: null, found: {} };

/** Return what `work` does, null if it fails: what the user can mend is said in a sentence. */
async function guard(work) {
  say("error", "");
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") {
      say("measured", "Stopped; nothing of it is kept.");
    } else if (error instanceof InputError) {
      say("error", error.message, "bad");
    } else {
      say("error", `Something unforeseen happened: ${error.message}. Reload the page.`, "bad");
      reportError(error);
    }
    $("error").scrollIntoView({ block: "nearest" }); // a phone may show the answers, far below
    return null;
  }
}

/** Return the bytes of a file of the site. */
async function load(path) {
  try {
    const response = await fetch(path);
    if (!response.ok) throw new Error(response.status);
    return new Uint8Array(await response.arrayBuffer()); // which may end early, too
  } catch ({ message }) {
    throw new InputError(`${path} cannot be loaded (${message})`,
      "the whole folder on a server that answers", "upload it again, or reload the page");
  }
}

/** Return what site.json says; servers may answer any name with a page of their own. */
async function readSite() {
  const bytes = await load("site.json");
  try {
    const site = JSON.parse(new TextDecoder().decode(bytes));
    const texts = [...site.class_labels, ...site.models.map(({ name }) => name), ...Object.keys(site.files)];
    if (!site.models.length || texts.some((text) => typeof text !== "string")) throw new Error("models or classes");
    return site;
  } catch ({ message }) {
    throw new InputError(`site.json is damaged (${message})`, "what `convnet-edge bundle` wrote", "upload the folder again");
  }
}

function requireBrowser() {
  const needed = ["WebAssembly", "DecompressionStream", "OffscreenCanvas"];
  const missing = needed.filter((name) => !(name in globalThis));
  if (missing.length) {
    throw new InputError(`this browser has no ${missing.join(" and no ")}`,
      "Chrome or Edge 103, Firefox 113, Safari 16.4, or newer", "update it, or open the page in another");
  }
}

/** Offer the threads that the page may have; they hold for one load of the page. */
function chooseThreads() {
  const most = crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;
  const asked = Number(new URLSearchParams(location.search).get("threads")) || most;
  page.threads = Math.min(most, Math.max(1, Math.floor(asked)));
  $("threads").replaceChildren(...Array.from({ length: most }, (_, i) => element("option", `${i + 1}`)));
  $("threads").value = `${page.threads}`;
  $("threads").disabled = most === 1;
  $("threads").addEventListener("change", () => location.assign(`?threads=${$("threads").value}`));
  const lack = isSecureContext ? "the page is not isolated. Reload it once, or let the server send the two headers."
    : "threads need HTTPS (convnet-edge serve --cert, --key).";
  say("threads-text", !crossOriginIsolated ? `One thread and a coarse clock: ${lack}`
    : most === 1 ? "This device has one core." : "Fewer may be faster on some devices.");
}

async function loadRuntime() {
  const ort = await import("./ort/ort.wasm.min.mjs").catch(({ message }) => ({ message }));
  if (!ort.env?.wasm || !ort.InferenceSession) {
    throw new InputError(`onnxruntime cannot be loaded (${ort.message ?? "its file holds something else"})`,
      "ort/ as in the folder that was made", "upload the folder again, or reload the page");
  }
  Object.assign(ort.env.wasm, { wasmPaths: new URL("ort/", import.meta.url).href, numThreads: page.threads });
  ort.env.logLevel = "error";
  return ort;
}

/** Open and prove a model; tell whether it passed. */
async function openModel(name) {
  const clock = [performance.now()];
  const lap = () => clock.push(performance.now());
  const bytes = await load(`models/${encodeURIComponent(name)}`);
  lap();
  const contract = await readContract(bytes);
  lap();
  const model = await Model.open(page.ort, bytes, contract);
  lap();
  await model.run(model.prepare(contract.goldens.images.slice(0, model.side)));
  lap();
  const [read_ms, check_ms, session_ms, first_run_ms] = clock.slice(1).map((end, i) => end - clock[i]);
  const checks = await selfTest(model, decodePicture);
  const file = { name, model_bytes: bytes.length, model_sha256: await sha256(bytes) };
  Object.assign(page, { model, found: { file, checks, start: { read_ms, check_ms, session_ms, first_run_ms } } });
  return showChecks(checks);
}

/** Show the page's tools for a model that passed, and hide them for one that did not. */
async function changeModel({ name }) {
  const tools = document.querySelector("main");
  await stopLive();
  say("status", `Opening ${name}…`);
  $("proof").hidden = true;
  page.model = null; // what is asked meanwhile must not be answered by another model
  tools.inert = true;
  const passed = await guard(() => openModel(name));
  tools.inert = false;
  tools.hidden = !passed;
  if (!page.model) say("status", `${name} cannot be used.`, "bad");
  if (!passed) return;
  for (const id of ["latency", "confusion"]) $(id).replaceChildren();
  say("measured", "");
  showTools(page.model.contract);
  if (page.given) await classify(page.given);
}

/** Offer what makes sense for this model: a drawing is dark ink on paper, which colours know not. */
function showTools({ samples, shape, preprocessing }) {
  const canInvert = preprocessing.invert === "border";
  $("invert-choice").hidden = !canInvert;
  if (!canInvert) $("invert").value = "auto";
  $("drawing").hidden = !canInvert || shape[2] !== 1;
  $("test-image").hidden = $("score").hidden = !hasTests();
  $("samples").replaceChildren(...samples.map(({ name, encoded, pixels }) => {
    const button = element("button", "", { type: "button", "aria-label": `Sample picture ${name}` });
    drawPixels(button.appendChild(element("canvas")), pixels, shape);
    button.addEventListener("click", () => classify({ encoded, name }));
    return button;
  }));
}

/** Return whether to invert, as the user chose; null lets the page decide. */
const inversion = () => ({ auto: null, yes: true, no: false }[$("invert").value]);

/** Show what the model says of `seen`, pixels on their way from what was `given`. */
async function answer(given, seen) {
  const { contract } = page.model;
  const tensor = page.model.prepare(seen.pixels);
  const before = performance.now();
  const ranked = rank(await page.model.run(tensor), contract.labels);
  const ms = performance.now() - before;
  const doubt = findDoubt(ranked, seen.unevenness, contract.decision);
  showAnswer({ ms, ...given, ...seen, isAsked: inversion() !== null }, contract, ranked, doubt);
}

/** Classify what was given: { encoded, name }, or { pixels, name, truth } of the test set. */
async function classify(given) {
  const isAnswered = await guard(async () => {
    await stopLive();
    page.given = given;
    const asked = { name: given.name, invert: inversion(), onBitmap: drawGiven };
    const seen = given.pixels ? { pixels: given.pixels, isInverted: null, unevenness: null }
      : await decodePicture(given.encoded, page.model.contract.preprocessing, asked);
    await answer(given, seen);
    showView(false, !given.pixels);
    return true;
  });
  if (isAnswered) return;
  say("answer", "Nothing: the picture was refused."); // not the last one's answer
  $("bars").replaceChildren();
}

/** Classify what the camera sees until it is stopped. */
function live() {
  const stopper = new AbortController();
  const { preprocessing, shape } = page.model.contract;
  const onFrame = async (bitmap, framesPerS) => {
    const started = performance.now();
    const seen = fitBitmap(bitmap, preprocessing, { invert: inversion() });
    await answer({ name: "In the frame", ms: undefined }, seen);
    const ms = (performance.now() - started).toFixed(0);
    say("rate", `${framesPerS?.toFixed(0) ?? "–"} frames/s, ${ms} ms for each. Only what is in the frame counts.`);
  };
  $("live").disabled = true;
  showView(true, false);
  const ended = guard(() => watch({ video: $("video"), frame: $("frame") }, shape, { signal: stopper.signal, onFrame }))
    .finally(() => {
      $("live").disabled = false;
      page.live = null;
      showView(false, false);
    });
  page.live = { stop: () => stopper.abort(), ended };
}

async function stopLive() {
  page.live?.stop();
  await page.live?.ended;
}

const hasTests = () => TEST_SET in page.site.files;
const loadTests = async () => (page.test ??= await readTestSet(page.model.contract, await load(TEST_SET)));

/** Run one long measurement with progress and a Stop button; only one at a time. */
async function measure(text, work) {
  await stopLive();
  const stopper = new AbortController();
  const setBusy = (isBusy) => {
    for (const id of ["controls", "model"]) $(id).disabled = isBusy;
    for (const id of ["stop", "progress"]) $(id).hidden = !isBusy;
  };
  $("stop").onclick = () => stopper.abort();
  $("progress").value = 0;
  say("measured", text);
  setBusy(true);
  await guard(async () => {
    const test = hasTests() ? await loadTests() : page.model.contract.goldens;
    await work(test, stopper.signal, (share) => { $("progress").value = share; });
  });
  setBusy(false);
}

const bench = () => measure("Timing; keep this page in front.", async ({ images }, signal, onProgress) => {
  const rows = [];
  for (const batchSize of BATCH_SIZES) {
    rows.push(await measureLatency(page.model, images, { batchSize, onProgress, signal }));
  }
  page.found.latency = rows;
  showLatency(rows, page.model.contract.goldens.tolerance);
});

const score = () => measure("Classifying the test set.", async (test, signal, onProgress) => {
  page.found.accuracy = await measureAccuracy(page.model, test, { onProgress, signal });
  showAccuracy(page.found.accuracy, page.model.contract.document.measured.sha256);
});

async function save() {
  const result = `${JSON.stringify(await describe(page), null, 1)}\n`;
  const link = element("a", "", { download: `${page.found.file.name.replace(/\.onnx$/, "")}-browser.json` });
  link.href = URL.createObjectURL(new Blob([result], { type: "application/json" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const classifyTestImage = () => guard(async () => {
  const { images, labels, n } = await loadTests();
  const [{ side, contract }, i] = [page.model, Math.floor(Math.random() * n)];
  const pixels = images.subarray(i * side, (i + 1) * side);
  await classify({ pixels, name: `Test image ${i}`, truth: contract.labels[labels[i]] });
});

/** Take a picture from a list of files or of what was pasted. */
function take([file]) {
  if (!page.model) return;
  if (file) classify({ encoded: file, name: file.name || "the picture" });
  else say("error", "there is no picture in it; expected a picture file; next: choose one", "bad");
}

function listen() {
  for (const id of ["file", "camera"]) {
    $(id).addEventListener("change", ({ target }) => {
      if (target.files.length) take(target.files);
      target.value = ""; // so that the same file can be chosen again
    });
  }
  document.addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files);
  });
  const clear = makePad($("pad"), (encoded) => classify({ encoded, name: "Your drawing" }));
  const actions = { clear, live, "stop-live": stopLive, "test-image": classifyTestImage, bench, score, save };
  for (const [id, act] of Object.entries(actions)) $(id).addEventListener("click", act);
  $("invert").addEventListener("change", () => page.given && !page.live && classify(page.given));
  $("model").addEventListener("change", ({ target }) => changeModel(page.site.models[target.selectedIndex]));
}

/** Keep the page for use without a network, where the browser allows it; return what to say of it. */
async function keepOffline({ serviceWorker: worker }) {
  if (!worker) return "Needs the network each time: browsers keep pages only over HTTPS.";
  const hadOne = Boolean(worker.controller);
  worker.addEventListener("controllerchange", () => {
    if (hadOne) say("offline", "A newer version of this page is here: reload it.");
  });
  const [kept, lost] = ["Works without a network from now on.", "Needs the network each time: "];
  return worker.register("sw.js").then(() => worker.ready).then(() => kept, ({ message }) => lost + message);
}

async function start() {
  requireBrowser();
  chooseThreads();
  page.site = await readSite();
  const { models, class_labels: labels, convnet_edge: version, onnxruntime_web: ortVersion } = page.site;
  say("versions", `convnet-edge ${version}, onnxruntime-web ${ortVersion}.`);
  showClasses(labels);
  $("model").replaceChildren(...models.map(({ name }) => element("option", name)));
  $("model-choice").hidden = models.length === 1;
  page.ort = await loadRuntime();
  listen();
  await changeModel(models[0]);
  say("offline", await keepOffline(navigator));
  return page;
}

if (!await guard(start)) say("status", "The page cannot work here.", "bad");
