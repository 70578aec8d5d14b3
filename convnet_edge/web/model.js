// Open a model in onnxruntime, run it, and prove it with its own golden vectors.
// Runs in browsers and in Node: `ort` is onnxruntime-web or onnxruntime-node.

import { InputError } from "./contract.js";

const PIXEL_TOLERANCE = 2;

/** One opened model. `contract`: as contract.js reads it. */
export class Model {
  constructor(ort, session, contract) {
    Object.assign(this, { ort, session, contract, side: contract.side });
  }

  static async open(ort, bytes, contract, provider = "wasm") {
    try {
      const session = await ort.InferenceSession.create(bytes, { executionProviders: [provider] });
      return new Model(ort, session, contract);
    } catch (error) {
      throw new InputError(`onnxruntime does not open the model: ${error.message}`,
        "a model that it runs", "export the model again, or update what runs it");
    }
  }

  /** Return the input tensor (N, C, H, W) of `pixels`, images of (H, W, C) one behind the other. */
  prepare(pixels) {
    const { input, shape: [height, width, channels] } = this.contract;
    const nPixels = height * width;
    const data = input.dtype === "uint8" ? new Uint8Array(pixels.length) : new Float32Array(pixels.length);
    const scale = input.dtype === "uint8" ? 1 : 255;
    for (let i = 0, from = 0; from < pixels.length; from += this.side) {
      for (let c = 0; c < channels; c++) {
        for (let k = 0; k < nPixels; k++) data[i++] = pixels[from + k * channels + c] / scale;
      }
    }
    return new this.ort.Tensor(input.dtype, data, [pixels.length / this.side, channels, height, width]);
  }

  /** Return the logits of a prepared tensor, one row an image, as a Float32Array. */
  async run(tensor) {
    const { input, output } = this.contract;
    const { [output.name]: logits } = await this.session.run({ [input.name]: tensor });
    return logits.data;
  }
}

/**
 * Return the checks, { name, passed, detail, value, limit, skipped }, in the order shown.
 * `decode(encoded, preprocessing, { name })` gives the { pixels } of an encoded picture.
 */
export async function selfTest(model, decode) {
  return [checkDigests(model.contract), ...await checkGoldens(model), await checkPictures(model.contract, decode)];
}

/** Return the classes and their shares of one row of logits (softmax), the likeliest first. */
export function rank(logits, labels) {
  const largest = Math.max(...logits);
  const shifted = Array.from(logits, (value) => Math.exp(value - largest));
  const total = shifted.reduce((sum, value) => sum + value, 0);
  return shifted.map((value, i) => [labels[i], value / total]).sort((a, b) => b[1] - a[1]);
}

/** Return why the model is not sure of what it ranked first, null where it is: `decision` says. */
export function findDoubt([[, share]], unevenness, decision) {
  if (!decision) return null;
  const { threshold, max_unevenness: most } = decision;
  if (most !== null && unevenness > most) return "no single object on a plain background";
  return share < threshold ? `below the ${(100 * threshold).toFixed(0)} % that its answers need` : null;
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
  const [name, value, limit, skipped] = ["digest", null, null, isUnaltered === null];
  const detail = skipped ? "not checked: browsers compute SHA-256 only over HTTPS and on localhost"
    : isUnaltered ? "sha256 of the whole file, as it states" : "the file was altered after its export";
  return { name, passed: isUnaltered === true, detail, value, limit, skipped };
}

async function checkGoldens(model) {
  const { images, logits, nImages, tolerance: limit } = model.contract.goldens;
  const batch = await model.run(model.prepare(images));
  const alone = [];
  for (let i = 0; i < nImages; i++) {
    alone.push(...await model.run(model.prepare(images.slice(i * model.side, (i + 1) * model.side))));
  }
  return [["one by one", alone], ["as one batch", batch]].map(([how, found]) => {
    const value = largestError(found, logits.flat());
    const detail = `${nImages} images, largest error ${value.toExponential(2)}, tolerance ${limit.toExponential(2)}`;
    return { name: `golden vectors, ${how}`, passed: value <= limit, detail, value, limit, skipped: false };
  });
}

async function checkPictures({ samples, preprocessing }, decode) {
  const errors = await Promise.all(samples.map(async ({ name, encoded, pixels }) => (
    largestError((await decode(encoded, preprocessing, { name })).pixels, pixels))));
  const [value, limit] = [Math.max(0, ...errors), PIXEL_TOLERANCE];
  const blame = value <= limit ? "" : "; a browser that protects against tracking may alter pixels";
  const detail = `${samples.length} pictures, largest difference ${value} of 255, tolerance ${limit}${blame}`;
  return { name: "preprocessing samples", passed: value <= limit, detail, value, limit, skipped: false };
}
