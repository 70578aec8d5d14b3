// Wire the page: load, prove, then answer to what the user gives and asks.

import { InputError, readContract, sha256 } from "./contract.js";
import { DURATION_S, measureLatency } from "./latency.js";
import { Model, rank, selfTest } from "./model.js";
import { makePad } from "./pad.js";
import { decodePicture } from "./picture.js";
import { describe } from "./result.js";
import { loadTestSet, measureAccuracy } from "./testset.js";
import { $, drawPixels, element, say, showAccuracy, showAnswer, showChecks, showLatency } from "./view.js";

const BATCH_SIZES = [1, 8];
const MAX_THREADS = 4;

const page = { site: null, ort: null, model: null, threads: 1, given: null, found: {} };

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
    return null;
  }
}

/** Return the bytes of a file of the site. */
async function load(path) {
  const response = await fetch(path).catch(({ message }) => ({ ok: false, status: message }));
  if (response.ok) return new Uint8Array(await response.arrayBuffer());
  throw new InputError(`${path} cannot be loaded (${response.status})`,
    "the whole folder on a server that answers", "upload it again, or reload the page");
}

function requireBrowser() {
  const needed = ["WebAssembly", "DecompressionStream", "OffscreenCanvas"];
  const missing = needed.filter((name) => !(name in globalThis));
  if (missing.length) {
    throw new InputError(`this browser has no ${missing.join(" and no ")}`,
      "Chrome or Edge 80, Firefox 113, Safari 16.4, or newer", "update it, or open the page in another");
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
  if (crossOriginIsolated) {
    say("threads-text", most === 1 ? "This device has one core." : "Fewer may be faster on some devices.");
  } else {
    say("threads-text", "One thread and a coarse clock" + (isSecureContext
      ? ": the page is not isolated. Reload it once, or let the server send the two headers."
      : ": threads need HTTPS (convnet-edge serve --cert, --key)."));
  }
}

async function loadRuntime() {
  const ort = await import("./ort/ort.wasm.min.mjs");
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
  say("status", `Opening ${name}…`);
  page.model = null; // what is asked meanwhile must not be answered by another model
  tools.inert = true;
  const passed = await guard(() => openModel(name));
  tools.inert = false;
  tools.hidden = !passed;
  if (!page.model) say("status", `${name} cannot be used.`, "bad");
  if (!passed) return;
  for (const id of ["latency", "confusion"]) $(id).replaceChildren();
  say("measured", "");
  showSamples(page.model.contract);
  if (page.given) await classify(page.given);
}

function showSamples({ samples, shape }) {
  $("samples").replaceChildren(...samples.map(({ name, encoded, pixels }) => {
    const button = element("button", "", { type: "button", "aria-label": `Sample picture ${name}` });
    const canvas = element("canvas");
    drawPixels(canvas, pixels, shape);
    button.append(canvas);
    button.addEventListener("click", () => classify({ encoded, name }));
    return button;
  }));
}

/** Classify what was given: { encoded, name }, or { pixels, name, truth } of the test set. */
const classify = (given) => guard(async () => {
  page.given = given;
  const { model } = page;
  const { shape, labels } = model.contract;
  const invert = { auto: null, yes: true, no: false }[$("invert").value];
  const seen = given.pixels ? { pixels: given.pixels, isInverted: null }
    : await decodePicture(given.encoded, shape, { name: given.name, invert });
  const tensor = model.prepare(seen.pixels);
  const before = performance.now();
  const logits = await model.run(tensor);
  const ms = performance.now() - before;
  showAnswer({ ...given, ...seen, byBorder: invert === null }, shape, rank(logits, labels), ms);
});

const loadTests = async () => (page.test ??= await loadTestSet(page.model.contract, load));

/** Run one long measurement with progress and a Stop button; only one at a time. */
async function measure(text, work) {
  const stopper = new AbortController();
  const setBusy = (isBusy) => {
    for (const id of ["controls", "model"]) $(id).disabled = isBusy;
    for (const id of ["stop", "progress"]) $(id).hidden = !isBusy;
  };
  $("stop").onclick = () => stopper.abort();
  $("progress").value = 0;
  say("measured", text);
  setBusy(true);
  await guard(async () => work(await loadTests(), stopper.signal, (share) => { $("progress").value = share; }));
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
  showAccuracy(page.found.accuracy);
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
  const pixels = images.slice(i * side, (i + 1) * side);
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
  const actions = { clear, "test-image": classifyTestImage, bench, score, save };
  for (const [id, act] of Object.entries(actions)) $(id).addEventListener("click", act);
  $("invert").addEventListener("change", () => page.given && classify(page.given));
  $("model").addEventListener("change", ({ target }) => changeModel(page.site.models[target.selectedIndex]));
}

/** Keep the page for use without a network, where the browser allows it; return what to say of it. */
async function keepOffline({ serviceWorker: worker }) {
  if (!worker) return "Needs the network each time: browsers keep pages only over HTTPS.";
  const hadOne = Boolean(worker.controller);
  worker.addEventListener("controllerchange", () => {
    if (hadOne) say("offline", "A newer version of this page is here: reload it.");
  });
  try {
    await worker.register("sw.js");
    await worker.ready;
  } catch (error) {
    return `Needs the network each time: ${error.message}`;
  }
  return "Works without a network from now on.";
}

async function start() {
  requireBrowser();
  chooseThreads();
  page.site = JSON.parse(new TextDecoder().decode(await load("site.json")));
  const { models, class_labels: labels, convnet_edge: version, onnxruntime_web: ortVersion } = page.site;
  say("versions", `convnet-edge ${version}, onnxruntime-web ${ortVersion}; classes: ${labels.join(", ")}.`);
  $("model").replaceChildren(...models.map(({ name }) => element("option", name)));
  $("model-choice").hidden = models.length === 1;
  page.ort = await loadRuntime();
  listen();
  await changeModel(models[0]);
  say("offline", await keepOffline(navigator));
  return page;
}

if (!await guard(start)) say("status", "The page cannot work here.", "bad");
