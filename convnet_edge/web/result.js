// Put what was measured into the schema that `convnet-edge report` reads.

import { sha256 } from "./contract.js";
import { combine } from "./verdict.js";

const SCHEMA = "convnet-edge/bench/2";

/** Return the result of one model in this browser; `latency` and `accuracy` may be missing. */
export async function describe({ site, entry, model, threads, durationS, ...found }) {
  const { checks, start, accuracy, latency: rows = [] } = found;
  const reasons = rows.flatMap(({ batch_size, verdict }) => (
    verdict.reasons.map((reason) => ({ batch_size, ...reason }))));
  return {
    schema: SCHEMA,
    measured_at: new Date().toISOString().replace(/\.\d+Z$/, "+00:00"),
    convnet_edge: site.convnet_edge,
    model: {
      name: entry.name,
      model_bytes: entry.model_bytes,
      model_sha256: entry.model_sha256,
      graph_sha256: model.contract.document.digest.graph_sha256,
      n_parameters: model.contract.document.parameters?.n ?? null,
      n_multiplications: null,
      input_dtype: entry.input_dtype,
      integers: entry.layout !== null,
    },
    provider: {
      asked: "wasm",
      obtained: "wasm",
      tested: true,
      threads,
      precision: "float32",
    },
    machine: await passport(site),
    settings: {
      batch_sizes: rows.map(({ batch_size }) => batch_size),
      duration_s: rows.length ? durationS : null,
      quick: false,
    },
    checks,
    cold_start: start && { n_processes: 1, processes: [start] },
    accuracy: accuracy ?? null,
    latency: rows,
    verdict: rows.length ? combine(reasons) : null,
  };
}

/** Return what a browser tells of its machine; what it hides is null. */
async function passport(site) {
  const { userAgent, hardwareConcurrency: cores, deviceMemory } = navigator;
  const text = JSON.stringify([userAgent, cores ?? null, deviceMemory ?? null]);
  const digest = await sha256(new TextEncoder().encode(text));
  return {
    id: digest && digest.slice(0, 16),
    cpu: `hidden by the browser (${navigator.userAgentData?.platform || navigator.platform})`,
    architecture: "wasm",
    cores: cores ?? null,
    usable_cores: cores ?? null,
    memory_bytes: deviceMemory ? deviceMemory * 2 ** 30 : null,
    system: userAgent,
    versions: { "onnxruntime-web": site.onnxruntime_web },
  };
}
