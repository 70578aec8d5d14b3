// Read the test set that travels with the page, and score a model on all of it.

import { InputError, sha256, unpack } from "./contract.js";

const BATCH = 100;
const MAX_BYTES = 16 * 2 ** 20;
const [IMAGES, LABELS] = [0x803, 0x801]; // IDX's magic numbers: uint8 of three axes, of one
const Z_95 = 1.959963984540054;

/** Return { images, labels, n, imagesSha256 }; `load(path)` gives the bytes of a file of the site. */
export async function loadTestSet({ document, shape }, load) {
  const images = await readIdx(await load("test-set/images.gz"), IMAGES);
  const labels = await readIdx(await load("test-set/labels.gz"), LABELS);
  const imagesSha256 = await sha256(images.file);
  const stated = document.measured.images_sha256;
  const n = labels.values.length;
  if (images.values.length !== n * shape[0] * shape[1] || (imagesSha256 && imagesSha256 !== stated)) {
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
  const sum = (counts) => counts.reduce((total, count) => total + count, 0);
  const share = (part, whole) => (whole ? part / whole : null);
  const classes = names.map((label, i) => {
    const [hits, nTrue, nSaid] = [confusion[i][i], sum(confusion[i]), sum(confusion.map((row) => row[i]))];
    const [precision, recall, f1] = [share(hits, nSaid), share(hits, nTrue), share(2 * hits, nTrue + nSaid)];
    return { label, n: nTrue, precision, recall, f1 };
  });
  const nCorrect = sum(confusion.map((row, i) => row[i]));
  const [accuracy, interval] = [nCorrect / n, wilsonInterval(nCorrect, n)];
  return { n, n_correct: nCorrect, accuracy, interval, classes, confusion, images_sha256: imagesSha256 };
}

/** Return the 95 % interval of a proportion; runtime/measure/stats.py names the source. */
function wilsonInterval(nHits, n) {
  const rate = nHits / n;
  const spread = Z_95 * Math.sqrt(rate * (1 - rate) / n + Z_95 ** 2 / (4 * n * n));
  const [centre, scale] = [rate + Z_95 ** 2 / (2 * n), 1 + Z_95 ** 2 / n];
  return { low: Math.max(0, (centre - spread) / scale), high: Math.min(1, (centre + spread) / scale) };
}

/** Return the numbers of an IDX file, and the file unpacked. */
async function readIdx(packed, magic) {
  try {
    const isPacked = packed[0] === 0x1f && packed[1] === 0x8b; // some servers unpack on the way
    const file = isPacked ? await unpack(packed, "gzip", MAX_BYTES) : packed;
    const header = new DataView(file.buffer);
    if (header.getUint32(0) !== magic) throw new Error("another magic number");
    const axes = Array.from({ length: magic & 0xff }, (_, i) => header.getUint32(4 + 4 * i));
    const values = file.subarray(4 + 4 * axes.length);
    if (values.length !== axes.reduce((a, b) => a * b)) throw new Error(`${values.length} values`);
    return { file, values };
  } catch (error) {
    throw new InputError(`the test set is damaged (${error.message})`, "IDX files", "upload the folder again");
  }
}
