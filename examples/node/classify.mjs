// Prove a model on this machine, then classify pictures with it.
//   node classify.mjs MODEL.onnx [--pixels] [PICTURE…]
// Exit codes: 0 done and proved, 1 a check failed, 2 wrong usage or an unreadable file.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import * as ort from "onnxruntime-node";
import { InputError, readContract } from "../../convnet_edge/web/contract.js";
import { Model, findDoubt, rank, selfTest } from "../../convnet_edge/web/model.js";
import { decodePicture } from "./preprocess.mjs";

function read(path) {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new InputError(`${path} cannot be read: ${error.code}`, "a readable file", "name another file");
  }
}

function parseCommandLine() {
  const usage = "node classify.mjs MODEL.onnx [--pixels] [PICTURE…]";
  try {
    const options = { pixels: { type: "boolean", default: false } };
    const { values, positionals: [path, ...paths] } = parseArgs({ options, allowPositionals: true });
    if (path) return { ...values, path, paths };
  } catch (error) {
    throw new InputError(error.message, usage, "leave that option out");
  }
  throw new InputError("no model was named", usage, "name an .onnx file");
}

async function main() {
  const { path, paths, pixels } = parseCommandLine();
  const bytes = read(path);
  const contract = await readContract(bytes);
  const pictures = [];
  for (const name of paths) pictures.push(await decodePicture(read(name), contract.preprocessing, { name }));
  if (pixels) {
    for (const picture of pictures) console.log(JSON.stringify([...picture.pixels]));
    return 0;
  }
  const model = await Model.open(ort, bytes, contract, "cpu");
  const checks = await selfTest(model, decodePicture);
  for (const { name, passed, detail } of checks) console.log(`[${passed ? "✓" : "x"}] ${name}: ${detail}`);
  const isProved = checks.every(({ passed }) => passed);
  console.log(isProved ? "PASS" : "FAIL");
  if (!isProved) return 1;
  for (const [i, picture] of pictures.entries()) {
    const ranked = rank(await model.run(model.prepare(picture.pixels)), contract.labels);
    const doubt = findDoubt(ranked, picture.unevenness, contract.decision);
    const shares = ranked.slice(0, 3).map(([label, share]) => `${label} ${(100 * share).toFixed(1)} %`);
    console.log(`${paths[i]}: ${doubt === null ? "" : `not sure (${doubt}): `}${shares.join(", ")}`);
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
