// Open a model in onnxruntime-web, run it, and prove it with its own golden vectors.

import { InputError } from "./contract.js";
import { decodePicture } from "./picture.js";

const PIXEL_TOLERANCE = 2;

/** Load onnxruntime-web with `threads` threads; it is set once for the life of the page. */
export async function loadRuntime(threads) {
  const ort = await import("./ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  return ort;
}

/** One opened model. `contract`: as contract.js reads it. */
export class Model {
  constructor(ort, session, contract) {
    Object.assign(this, { ort, session, contract, side: contract.shape[0] * contract.shape[1] });
  }

  static async open(ort, bytes, contract) {
    try {
      const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
      return new Model(ort, session, contract);
    } catch (error) {
      throw new InputError(`onnxruntime-web does not open the model: ${error.message}`,
        "a model that it runs", "reload the page, or bundle the model again");
    }
  }

  /** Return the input tensor of `pixels`, images of (H, W) one behind the other. */
  prepare(pixels) {
    const { input, shape } = this.contract;
    const data = input.dtype === "uint8" ? pixels : Float32Array.from(pixels, (v) => v / 255);
    return new this.ort.Tensor(input.dtype, data, [pixels.length / this.side, 1, ...shape]);
  }

  /** Return the logits of a prepared tensor, one row an image, as a Float32Array. */
  async run(tensor) {
    const { input, output } = this.contract;
    const { [output.name]: logits } = await this.session.run({ [input.name]: tensor });
    return logits.data;
  }
}

/** Return the checks, { name, passed, detail, value, limit, skipped }, in the order shown. */
export async function selfTest(model) {
  return [checkDigests(model.contract), ...await checkGoldens(model), await checkPictures(model)];
}

/** Return the softmax of one row of logits. */
export function probabilities(logits) {
  const largest = Math.max(...logits);
  const shifted = Array.from(logits, (value) => Math.exp(value - largest));
  const total = shifted.reduce((sum, value) => sum + value, 0);
  return shifted.map((value) => value / total);
}

/** Return the largest difference of two equally long rows; infinite if any value is not finite. */
export function largestError(found, expected) {
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs(found[i] - expected[i]);
    if (!Number.isFinite(error)) return Infinity;
    if (error > worst) worst = error;
  }
  return worst;
}

function checkDigests({ isUnaltered }) {
  const details = new Map([
    [true, "sha256 of graph and contract, as the file states them"],
    [false, "the model file was altered after its export"],
    [null, "not checked: browsers compute SHA-256 only over HTTPS and on localhost"],
  ]);
  return {
    name: "digests", passed: isUnaltered === true, detail: details.get(isUnaltered),
    value: null, limit: null, skipped: isUnaltered === null,
  };
}

async function checkGoldens(model) {
  const { images, logits, nImages, tolerance } = model.contract.goldens;
  const expected = logits.flat();
  const batch = await model.run(model.prepare(images));
  const alone = [];
  for (let i = 0; i < nImages; i++) {
    alone.push(...await model.run(model.prepare(images.slice(i * model.side, (i + 1) * model.side))));
  }
  return [["one by one", alone], ["as one batch", batch]].map(([how, found]) => {
    const error = largestError(found, expected);
    return {
      name: `golden vectors, ${how}`, passed: error <= tolerance,
      detail: `${nImages} images, largest error ${error.toExponential(2)}, `
        + `tolerance ${tolerance.toExponential(2)}`,
      value: Number.isFinite(error) ? error : null, limit: tolerance, skipped: false,
    };
  });
}

async function checkPictures({ contract: { samples, shape } }) {
  const errors = await Promise.all(samples.map(async ({ name, encoded, pixels }) => (
    largestError((await decodePicture(new Blob([encoded]), shape, { name })).pixels, pixels))));
  const worst = Math.max(...errors);
  const passed = worst <= PIXEL_TOLERANCE;
  const blame = passed ? "" : "; a browser that protects against tracking may alter pixels";
  return {
    name: "preprocessing samples", passed,
    detail: `${samples.length} pictures, largest difference ${worst} of 255, `
      + `tolerance ${PIXEL_TOLERANCE}${blame}`,
    value: worst, limit: PIXEL_TOLERANCE, skipped: false,
  };
}
