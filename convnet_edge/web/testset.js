// Read the test set that travels with the page, and score a model on all of it.

import { InputError, sha256, unpack } from "./contract.js";
import { wilsonInterval } from "./stats.js";

const BATCH = 100;
const MAX_BYTES = 64 * 2 ** 20;
const [IMAGES, LABELS] = [0x803, 0x801]; // IDX's magic numbers: uint8 of three axes, of one

/** Return { images, labels, n, imagesSha256 } of the embedded test set. */
export async function loadTestSet(contract) {
  const [images, labels] = await Promise.all([
    loadIdx("test-set/images.gz", IMAGES), loadIdx("test-set/labels.gz", LABELS)]);
  const imagesSha256 = await sha256(images.file);
  const stated = contract.document.measured.images_sha256;
  const side = contract.shape[0] * contract.shape[1];
  const n = labels.values.length;
  if (images.values.length !== n * side || (imagesSha256 && imagesSha256 !== stated)) {
    throw new InputError("the test set is not the one that this model was measured on",
      `images of SHA-256 ${stated.slice(0, 16)}…`, "bundle the page again");
  }
  return { images: images.values, labels: labels.values, n, imagesSha256 };
}

/** Score `model`; `onProgress` gets the share done, `signal` ends it early by an AbortError. */
export async function measureAccuracy(model, test, { onProgress, signal }) {
  const { side, contract: { labels: names } } = model;
  const confusion = names.map(() => names.map(() => 0));
  for (let at = 0; at < test.n; at += BATCH) {
    signal.throwIfAborted();
    const end = Math.min(test.n, at + BATCH);
    const logits = await model.run(model.prepare(test.images.slice(at * side, end * side)));
    for (let i = at; i < end; i++) {
      const row = logits.subarray((i - at) * names.length, (i - at + 1) * names.length);
      confusion[test.labels[i]][row.indexOf(Math.max(...row))] += 1;
    }
    onProgress(end / test.n);
    await new Promise((resume) => { setTimeout(resume); }); // lets the page draw and be stopped
  }
  return score(confusion, names, test);
}

function score(confusion, names, { n, imagesSha256 }) {
  const nCorrect = confusion.reduce((sum, row, i) => sum + row[i], 0);
  const classes = names.map((label, i) => {
    const hits = confusion[i][i];
    const nTrue = confusion[i].reduce((sum, value) => sum + value, 0);
    const nSaid = confusion.reduce((sum, row) => sum + row[i], 0);
    return {
      label,
      n: nTrue,
      precision: nSaid ? hits / nSaid : null,
      recall: nTrue ? hits / nTrue : null,
      f1: nTrue + nSaid ? 2 * hits / (nTrue + nSaid) : null,
    };
  });
  return {
    n,
    n_correct: nCorrect,
    accuracy: nCorrect / n,
    interval: wilsonInterval(nCorrect, n),
    classes,
    confusion,
    images_sha256: imagesSha256,
  };
}

async function loadIdx(path, magic) {
  const response = await fetch(path);
  if (!response.ok) {
    throw new InputError(`${path} cannot be loaded (${response.status})`, "the whole folder on the "
      + "server", "upload it again");
  }
  try {
    let file = new Uint8Array(await response.arrayBuffer());
    // some servers unpack .gz on the way
    if (file[0] === 0x1f && file[1] === 0x8b) file = await unpack(file, "gzip", MAX_BYTES);
    const header = new DataView(file.buffer);
    if (header.getUint32(0) !== magic) throw new Error("another magic number");
    const axes = Array.from({ length: magic & 0xff }, (_, i) => header.getUint32(4 + 4 * i));
    const values = file.subarray(4 + 4 * axes.length);
    if (values.length !== axes.reduce((a, b) => a * b)) throw new Error(`${values.length} values`);
    return { file, values };
  } catch (error) {
    throw new InputError(`${path} is damaged (${error.message})`, "an IDX file of the test set",
      "upload the folder again");
  }
}
