// Prove a model on this machine, then classify pictures with it.
//   node classify.mjs MODEL.onnx [--pixels] [PICTURE…]
// Exit codes: 0 done and proved, 1 a check failed, 2 wrong usage or an unreadable file.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import * as ort from "onnxruntime-node";
import { InputError, readContract } from "../../convnet_edge/web/contract.js";
import { decodePicture } from "./preprocess.mjs";

const PIXEL_TOLERANCE = 2;

/** Return the logits, one row an image, of `pixels`: images of (H, W) one behind the other. */
async function run(session, { input, output, shape: [height, width] }, pixels) {
  const data = input.dtype === "uint8" ? pixels : Float32Array.from(pixels, (v) => v / 255);
  const n = pixels.length / (height * width);
  const tensor = new ort.Tensor(input.dtype, data, [n, 1, height, width]);
  const { [output.name]: logits } = await session.run({ [input.name]: tensor });
  return logits.data;
}

/** Return max |logits - stored|, of the images alone and as one batch; NaN counts as infinite. */
async function largestGoldenError(session, contract) {
  const { images, logits: stored, nImages } = contract.goldens;
  const side = images.length / nImages;
  const expected = stored.flat();
  const batch = await run(session, contract, images);
  const alone = [];
  for (let i = 0; i < nImages; i++) {
    alone.push(...await run(session, contract, images.slice(i * side, (i + 1) * side)));
  }
  const errors = [batch, alone].flatMap((found) => (
    expected.map((value, i) => Math.abs(found[i] - value))));
  return errors.every(Number.isFinite) ? Math.max(...errors) : Infinity;
}

/** Return the largest difference of a pixel, over the pictures that travel in the contract. */
function largestPixelError({ samples, shape }) {
  return Math.max(...samples.flatMap(({ name, encoded, pixels }) => (
    [...decodePicture(Buffer.from(encoded), shape, name)].map((value, i) => Math.abs(value - pixels[i])))));
}

/** Print each check and tell whether all of them hold. */
async function selfTest(session, contract) {
  const { tolerance, nImages } = contract.goldens;
  const error = await largestGoldenError(session, contract);
  const pixelError = largestPixelError(contract);
  const checks = [
    ["digests", contract.isUnaltered, "sha256 of graph and contract, as the file states them"],
    ["golden vectors", error <= tolerance,
      `${nImages} images, largest error ${error.toExponential(2)}, `
      + `tolerance ${tolerance.toExponential(2)}`],
    ["preprocessing samples", pixelError <= PIXEL_TOLERANCE,
      `${contract.samples.length} pictures, largest difference ${pixelError} of 255, `
      + `tolerance ${PIXEL_TOLERANCE}`],
  ];
  for (const [name, holds, detail] of checks) {
    console.log(`[${holds ? "✓" : "x"}] ${name}: ${detail}`);
  }
  const passed = checks.every(([, holds]) => holds);
  console.log(passed ? "PASS" : "FAIL");
  return passed;
}

/** Return `label: 98.1 %, second: 1.2 %, third: 0.5 %` of one row of logits. */
function describe(logits, labels) {
  const shifted = Array.from(logits, (value) => Math.exp(value - Math.max(...logits)));
  const total = shifted.reduce((sum, value) => sum + value, 0);
  return shifted.map((value, i) => [labels[i], value / total])
    .sort((a, b) => b[1] - a[1])
    .slice(0, 3)
    .map(([label, share]) => `${label} ${(100 * share).toFixed(1)} %`)
    .join(", ");
}

function read(path, nextStep) {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new InputError(`${path} cannot be read: ${error.code}`, "a readable file", nextStep);
  }
}

function parseCommandLine() {
  const usage = "node classify.mjs MODEL.onnx [--pixels] [PICTURE…]";
  try {
    const options = { pixels: { type: "boolean", default: false } };
    const { values, positionals } = parseArgs({ options, allowPositionals: true });
    const [model, ...paths] = positionals;
    if (model) return { ...values, model, paths };
  } catch (error) {
    throw new InputError(error.message, usage, "leave that option out");
  }
  throw new InputError("no model was named", usage, "name an .onnx file");
}

async function open(bytes) {
  try {
    return await ort.InferenceSession.create(bytes, { executionProviders: ["cpu"] });
  } catch (error) {
    throw new InputError(`onnxruntime does not open it: ${error.message}`,
      "a model that this onnxruntime runs", "export it again, or update onnxruntime-node");
  }
}

async function main() {
  const { model, paths, pixels } = parseCommandLine();
  const bytes = read(model, "name a model file");
  const contract = await readContract(bytes);
  const pictures = paths.map((path) => (
    decodePicture(read(path, "name a picture file"), contract.shape, path)));
  if (pixels) {
    for (const picture of pictures) console.log(JSON.stringify([...picture]));
    return 0;
  }
  const session = await open(bytes);
  if (!await selfTest(session, contract)) return 1;
  for (const [i, picture] of pictures.entries()) {
    console.log(`${paths[i]}: ${describe(await run(session, contract, picture), contract.labels)}`);
  }
  return 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof InputError)) throw error;
  console.error(error.message);
  process.exitCode = 2;
}
