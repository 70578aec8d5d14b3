// Judge a timing as VALID, NOISY or INVALID: the rules of convnet_edge/runtime/verdict.py, less
// those that need a kernel's counters. Tests hold the two against each other.

import { median, percentile, percentileFloor } from "./stats.js";

export const MIN_RUNS = percentileFloor(0.5);
export const MAX_TIMER_STEP_SHARE = 0.05; // of p50
const MAX_HALF_WIDTH_SHARE = 0.05; // of p50: half of its 95 % interval
const MAX_DRIFT_SHARE = 0.10; // median of the last third against the first
const MAX_MODE_DISTANCE_SHARE = 0.15; // of p50, between two groups of block medians
const BLOCK_MS = 100;
const MIN_ASHMAN_D = 5;
const MIN_MODE_BLOCKS = 3;
const MIN_MODE_SHARE = 0.1;

const percent = (share) => `${(100 * share).toFixed(1)} %`;

/**
 * Return { status, reasons } of one trace: samplesMs, startsMs (when each run began), error and
 * tolerance of the outputs checked, stepMs of the clock, nBlock: runs timed together (1: each).
 */
export function judge(trace) {
  const reasons = [...forbidding(trace)];
  if (trace.samplesMs.length >= MIN_RUNS) reasons.push(...doubts(trace));
  return combine(reasons);
}

/** Return the verdict that `reasons`, of one trace or several, amount to. */
export function combine(reasons) {
  const found = new Set(reasons.map(({ status }) => status));
  const status = ["INVALID", "NOISY"].find((worst) => found.has(worst)) ?? "VALID";
  return { status, reasons };
}

function* forbidding({ samplesMs, error, tolerance }) {
  if (!(error <= tolerance)) {
    yield {
      name: "wrong outputs", status: "INVALID", threshold: tolerance,
      value: Number.isFinite(error) ? error : null,
      text: `a timed run gave logits off by ${error.toPrecision(2)}, at most `
        + `${tolerance.toPrecision(2)} is allowed; reload the page and read its self-test`,
    };
  }
  if (samplesMs.length < MIN_RUNS) {
    yield {
      name: "too few runs", status: "INVALID", value: samplesMs.length, threshold: MIN_RUNS,
      text: `${samplesMs.length} runs, p50 needs ${MIN_RUNS}; time for longer`,
    };
  }
}

function* doubts({ samplesMs, startsMs, stepMs, nBlock }) {
  const p50 = percentile(samplesMs, 0.5);
  if (nBlock > 1) {
    const share = stepMs / p50.value;
    yield {
      name: "coarse timer", status: "NOISY", value: share, threshold: MAX_TIMER_STEP_SHARE,
      text: `the browser's clock steps by ${(1000 * stepMs).toPrecision(2)} µs, `
        + `${percent(share)} of a run, so ${nBlock} runs were timed together: a mean, but no `
        + "percentiles; an isolated page has a finer clock",
    };
  }
  for (const [name, value, threshold, found, advice] of looks({ samplesMs, startsMs, p50 })) {
    if (value !== null && value > threshold) {
      const text = `${found} (at most ${percent(threshold)}); ${advice}`;
      yield { name, status: "NOISY", value, threshold, text };
    }
  }
}

function* looks({ samplesMs, startsMs, p50 }) {
  const halfWidth = (p50.high - p50.low) / 2 / p50.value;
  yield ["wide interval", halfWidth, MAX_HALF_WIDTH_SHARE,
    `p50's 95 % interval is ±${percent(halfWidth)} of it`, "time for longer"];
  const third = Math.floor(samplesMs.length / 3);
  const [first, last] = [median(samplesMs.slice(0, third)), median(samplesMs.slice(-third))];
  const drift = Math.abs(last / first - 1);
  yield ["drift", drift, MAX_DRIFT_SHARE,
    `the last third of the runs is ${percent(drift)} ${last > first ? "slower" : "faster"} than the `
    + "first", "let the device warm up or cool down, and keep this page in front"];
  const distance = modeDistance(blockMedians(samplesMs, startsMs));
  const apart = distance === null ? null : distance / p50.value;
  yield ["two modes", apart, MAX_MODE_DISTANCE_SHARE,
    `the medians of 100 ms blocks fall into two groups ${percent(apart ?? 0)} apart`,
    "look for what switches: clock, cores of two kinds, another program"];
}

/** Return the median of the runs that began in each 100 ms, in order. */
export function blockMedians(samplesMs, startsMs) {
  const blocks = [];
  let number = null;
  for (const [i, started] of startsMs.entries()) {
    const next = Math.floor((started - startsMs[0]) / BLOCK_MS);
    if (next !== number) blocks.push([]);
    number = next;
    blocks.at(-1).push(samplesMs[i]);
  }
  return blocks.map(median);
}

/** Return how far two groups of block medians lie apart (Ashman's D > 5), null if one group. */
export function modeDistance(medians) {
  const ordered = Float64Array.from(medians).sort();
  const n = ordered.length;
  const smallest = Math.max(MIN_MODE_BLOCKS, Math.ceil(MIN_MODE_SHARE * n));
  if (n < 2 * smallest) return null;
  let best = null;
  for (let cut = smallest; cut <= n - smallest; cut++) {
    const [low, high] = [moments(ordered.subarray(0, cut)), moments(ordered.subarray(cut))];
    if (best === null || low.squares + high.squares < best.squares) {
      best = { low, high, squares: low.squares + high.squares };
    }
  }
  const { low, high } = best;
  const distance = high.mean - low.mean;
  const spread = Math.sqrt((low.squares / (low.n - 1) + high.squares / (high.n - 1)) / 2);
  return distance > MIN_ASHMAN_D * spread ? distance : null;
}

function moments(values) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { n: values.length, mean, squares };
}
