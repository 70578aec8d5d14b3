// Time a model in this browser and keep every sample. Whether the samples may be believed is for
// `convnet-edge report` to say; the page itself shows three percentiles.

import { largestError } from "./model.js";

// the fewest samples from which each may be stated: runtime/measure/stats.py derives them
export const FLOORS = { 0.5: 11, 0.9: 64, 0.99: 662 };

export const DURATION_S = 4; // of the runs at one batch size
const [MAX_IMAGES, MAX_PIXELS] = [256, 2 ** 22]; // distinct images that take turns
const OTHER_SIZE = 32; // of the batches that the reference is computed with
const [MIN_RUNS, MIN_WARMUP_RUNS, WARMUP_SHARE] = [130, 10, 0.1]; // as in runtime/measure/timing.py
const TICK_MS = 200;

/**
 * Time runs of `batchSize` images for DURATION_S seconds; return a row of the result's `latency`.
 * `onProgress` gets the share done, `signal` ends it early by an AbortError.
 */
export async function measureLatency(model, images, { batchSize, onProgress, signal }) {
  const feed = await prepare(model, images, batchSize);
  const onTick = (share) => {
    signal.throwIfAborted();
    onProgress(share);
  };
  const warmup = await timeRuns(model, feed, WARMUP_SHARE * DURATION_S, MIN_WARMUP_RUNS, () => {});
  const { samplesNs, worst, elapsedS } = await timeRuns(model, feed, DURATION_S, MIN_RUNS, onTick);
  return {
    batch_size: batchSize,
    n_runs: samplesNs.length,
    n_warmup: warmup.samplesNs.length,
    elapsed_s: elapsedS,
    images_per_s: 1e9 * samplesNs.length * batchSize / samplesNs.reduce((sum, ns) => sum + ns, 0),
    samples_ns: samplesNs,
    n_outputs_checked: samplesNs.length,
    largest_output_error: worst,
    timer_step_ns: 1e6 * timerStepMs(),
    percentiles_ms: [],
    verdict: null,
  };
}

/** Return percentile `p` in milliseconds by nearest rank, null below its floor. */
export function percentileMs(samplesNs, p) {
  const n = samplesNs.length;
  return n < FLOORS[p] ? null : Float64Array.from(samplesNs).sort()[Math.ceil(p * n - 1e-9) - 1] / 1e6;
}

async function timeRuns(model, feed, durationS, minRuns, onTick) {
  const samplesNs = [];
  const started = performance.now();
  let [now, lastTick, worst] = [started, started, 0];
  while (now < started + 1000 * durationS || samplesNs.length < minRuns) {
    const { tensor, expected } = feed[samplesNs.length % feed.length];
    const before = performance.now();
    const logits = await model.run(tensor);
    now = performance.now();
    samplesNs.push(Math.round(1e6 * (now - before)));
    worst = Math.max(worst, largestError(logits, expected));
    if (now - lastTick > TICK_MS) {
      onTick(Math.min((now - started) / (1000 * durationS), samplesNs.length / minRuns, 1));
      await new Promise((resume) => { setTimeout(resume); }); // lets the page draw and be stopped
      lastTick = now;
    }
  }
  return { samplesNs, worst, elapsedS: (now - started) / 1000 };
}

/** Return the smallest step that the clock is seen to make, in milliseconds. */
function timerStepMs(nSteps = 20) {
  const looks = new Set();
  while (looks.size <= nSteps) looks.add(performance.now());
  const times = [...looks];
  return Math.min(...times.slice(1).map((time, i) => time - times[i]));
}

/** Return batches to time, each with the logits that it has at another batch size. */
async function prepare(model, images, batchSize) {
  const { side, contract: { labels } } = model;
  const nBatches = Math.min(MAX_IMAGES / OTHER_SIZE, Math.max(1, Math.floor(MAX_PIXELS / side / OTHER_SIZE)));
  const nImages = nBatches * OTHER_SIZE;
  const turns = new Uint8Array(nImages * side);
  for (let at = 0; at < turns.length; at += images.length) turns.set(images.subarray(0, turns.length - at), at);
  const batch = (size, i) => model.prepare(turns.subarray(i * size * side, (i + 1) * size * side));
  const logits = [];
  for (let i = 0; i < nBatches; i++) logits.push(...await model.run(batch(OTHER_SIZE, i)));
  const n = batchSize * labels.length;
  return Array.from({ length: Math.floor(nImages / batchSize) }, (_, i) => (
    { tensor: batch(batchSize, i), expected: logits.slice(i * n, (i + 1) * n) }));
}
