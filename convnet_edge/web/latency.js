// Time a model in this browser, with the same percentiles, floors and verdict as `bench`.

import { largestError } from "./model.js";
import { PERCENTILES, median, percentile } from "./stats.js";
import { MAX_TIMER_STEP_SHARE, judge } from "./verdict.js";

const N_IMAGES = 256; // distinct images that take turns
const OTHER_SIZE = 32; // of the batches that the reference is computed with
const MIN_RUNS = 130; // p95's floor
const MIN_WARMUP_RUNS = 10;
const WARMUP_SHARE = 0.1;
const N_CHECKED = 64;
const TICK_MS = 200;
const BLOCK_STEPS = 100; // a block lasts this many steps of the clock: 1 %
const MAX_SAMPLES = 4000; // kept in the result, a batch size

/**
 * Time runs of `batchSize` images for `durationS` seconds; return a row of the result's `latency`.
 * `onProgress` gets the share done, `signal` ends it early by an AbortError.
 */
export async function measureLatency(model, images, { batchSize, durationS, onProgress, signal }) {
  const feed = await prepare(model, images, batchSize);
  const stepMs = timerStepMs();
  const warmup = await warmUp(model, feed, WARMUP_SHARE * 1000 * durationS);
  const isCoarse = stepMs > MAX_TIMER_STEP_SHARE * warmup.meanMs;
  const nBlock = isCoarse ? Math.ceil(BLOCK_STEPS * stepMs / warmup.meanMs) : 1;
  const [samplesMs, startsMs, kept] = [[], [], []];
  const tolerance = model.contract.goldens.tolerance;
  const started = performance.now();
  const deadline = started + 1000 * durationS;
  let [lastTick, nRuns, pausedMs] = [started, 0, 0];
  for (let now = started; now < deadline || samplesMs.length < MIN_RUNS;) {
    const before = performance.now();
    let [index, logits] = [0, null];
    for (let i = 0; i < nBlock; i++) {
      index = nRuns++ % feed.tensors.length;
      logits = await model.run(feed.tensors[index]);
    }
    now = performance.now();
    samplesMs.push((now - before) / nBlock);
    startsMs.push(before);
    if (kept.length < N_CHECKED || samplesMs.length % N_CHECKED === 0) {
      kept.push(largestError(logits, feed.reference[index]));
    }
    if (now - lastTick > TICK_MS) {
      signal.throwIfAborted();
      onProgress(Math.min(1, (now - started) / (deadline - started), samplesMs.length / MIN_RUNS));
      await new Promise((resume) => { setTimeout(resume); });
      lastTick = performance.now();
      pausedMs += lastTick - now;
    }
  }
  const elapsedS = (performance.now() - started - pausedMs) / 1000;
  const error = Math.max(...kept);
  const verdict = judge({ samplesMs, startsMs, error, tolerance, stepMs, nBlock });
  return row({
    batchSize, samplesMs, nRuns, nBlock, elapsedS, stepMs, error, verdict,
    nWarmup: warmup.nRuns, nChecked: kept.length,
  });
}

/** Return the smallest step that the clock is seen to make, in milliseconds. */
export function timerStepMs(nSteps = 20) {
  let smallest = Infinity;
  for (let i = 0, last = performance.now(); i < nSteps;) {
    const now = performance.now();
    if (now > last) {
      smallest = Math.min(smallest, now - last);
      i += 1;
    }
    last = now;
  }
  return smallest;
}

/** Return tensors to time and their logits, run at another batch size. */
async function prepare(model, images, batchSize) {
  const { side, contract: { labels } } = model;
  const nHeld = images.length / side;
  const nBatches = Math.max(2, Math.floor(Math.min(N_IMAGES, nHeld) / batchSize));
  const n = nBatches * batchSize;
  const chosen = new Uint8Array(n * side);
  for (let i = 0; i < n; i++) {
    const from = (i % nHeld) * side;
    chosen.set(images.subarray(from, from + side), i * side);
  }
  const part = (size, i) => model.prepare(chosen.slice(i * size * side, (i + 1) * size * side));
  const tensors = Array.from({ length: nBatches }, (_, i) => part(batchSize, i));
  const size = batchSize === OTHER_SIZE ? OTHER_SIZE / 2 : OTHER_SIZE;
  const logits = [];
  for (let i = 0; i * size < n; i++) logits.push(...await model.run(part(size, i)));
  const stride = batchSize * labels.length;
  const reference = tensors.map((_, i) => logits.slice(i * stride, (i + 1) * stride));
  return { tensors, reference };
}

async function warmUp(model, { tensors }, durationMs) {
  const started = performance.now();
  let [nRuns, now] = [0, started];
  while (nRuns < MIN_WARMUP_RUNS || now < started + durationMs) {
    await model.run(tensors[nRuns++ % tensors.length]);
    now = performance.now();
  }
  return { nRuns, meanMs: (now - started) / nRuns };
}

function row(found) {
  const { batchSize, samplesMs, nRuns, nBlock, elapsedS } = found;
  const isTimedAlone = nBlock === 1;
  const samples = isTimedAlone ? samplesMs.map((ms) => Math.round(1e6 * ms)) : [];
  return {
    batch_size: batchSize,
    n_runs: nRuns,
    n_warmup: found.nWarmup,
    elapsed_s: elapsedS,
    images_per_s: nRuns * batchSize / elapsedS,
    mean_ms: samplesMs.reduce((sum, ms) => sum + ms, 0) / samplesMs.length,
    min_ms: isTimedAlone ? Math.min(...samplesMs) : null,
    max_ms: isTimedAlone ? Math.max(...samplesMs) : null,
    percentiles_ms: PERCENTILES.map((p) => percentile(isTimedAlone ? samplesMs : [], p)),
    n_runs_timed_together: nBlock,
    timer_step_ns: 1e6 * found.stepMs,
    n_outputs_checked: found.nChecked,
    largest_output_error: Number.isFinite(found.error) ? found.error : null,
    ...(samples.length <= MAX_SAMPLES ? { samples_ns: samples } : { histogram_ns: bins(samples) }),
    verdict: found.verdict,
  };
}

/** Return [lower edge in ns, count] of bins 1 % wide. */
function bins(samplesNs) {
  const counts = new Map();
  for (const sample of samplesNs) {
    const number = Math.floor(Math.log(Math.max(1, sample)) / Math.log(1.01));
    counts.set(number, (counts.get(number) ?? 0) + 1);
  }
  return [...counts].sort(([a], [b]) => a - b).map(([k, n]) => [Math.floor(1.01 ** k), n]);
}

/** Return the median milliseconds of one run of `tensor`, of a few. */
export async function timeOne(model, tensor, nRuns = 7) {
  const samples = [];
  for (let i = 0; i < nRuns; i++) {
    const before = performance.now();
    await model.run(tensor);
    samples.push(performance.now() - before);
  }
  return median(samples);
}
