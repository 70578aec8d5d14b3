// Put what was measured into the schema that `convnet-edge report` reads: the keys and their
// meaning stand in runtime/measure/result.py.

import { sha256 } from "./contract.js";
import { DURATION_S } from "./latency.js";

const SCHEMA = "convnet-edge/bench/3";
const NOT_A_PROCESS = { interpreter_ms: null, import_ms: null, total_ms: null };

/** Return the result of the page's model in this browser; `latency` and `accuracy` may be missing. */
export async function describe({ site, model: { contract }, threads, found }) {
  const { file, checks, start, accuracy = null, latency = [] } = found;
  const { parameters, quantization, proof = null } = contract.document;
  return {
    schema: SCHEMA,
    measured_at: new Date().toISOString().replace(/\.\d+Z$/, "+00:00"),
    convnet_edge: site.convnet_edge,
    model: {
      ...file,
      n_parameters: parameters.n,
      input_dtype: contract.input.dtype,
      integers: Boolean(quantization),
      proof,
    },
    provider: { asked: "wasm", obtained: "wasm", tested: true, threads, precision: "float32" },
    machine: await passport(site),
    settings: {
      batch_sizes: latency.map(({ batch_size: size }) => size),
      duration_s: latency.length ? DURATION_S : null,
      quick: false,
    },
    checks,
    cold_start: { n_processes: 1, processes: [{ ...NOT_A_PROCESS, ...start }] },
    accuracy,
    latency,
    verdict: null,
  };
}

/** Return what a browser tells of its machine; what it hides is null. */
async function passport(site) {
  const { userAgent, hardwareConcurrency: cores = null, deviceMemory = null } = navigator;
  const digest = await sha256(new TextEncoder().encode(JSON.stringify([userAgent, cores, deviceMemory])));
  return {
    id: digest && digest.slice(0, 16),
    cpu: `hidden by the browser (${navigator.userAgentData?.platform || navigator.platform})`,
    architecture: "wasm",
    cores,
    usable_cores: cores,
    memory_bytes: deviceMemory && deviceMemory * 2 ** 30,
    system: userAgent,
    versions: { "onnxruntime-web": site.onnxruntime_web },
  };
}
