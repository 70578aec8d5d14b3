// Read the test set that travels with the page, and score a model on all of it.

import { InputError, unpack } from "./contract.js";

const MAX_BATCH = 100;
const MAX_BATCH_VALUES = 2 ** 22;
const MAX_BYTES = 512 * 2 ** 20;
const [STORED, DEFLATED] = [0, 8]; // zip's methods
const [MAX_MATRIX, N_WORST] = [30, 10]; // as in Python: classes of a matrix; of more, pairs
const Z_95 = 1.959963984540054;

/** Return { images, labels, n, sha256 } of the bytes of an .npz; numpy writes and reads it. */
export async function readTestSet({ shape, labels: classes }, bytes) {
  try {
    const [images, labels, sha256] = await Promise.all(["images", "labels", "sha256"].map((name) => readArray(bytes, name)));
    const [n, ...sides] = images.shape;
    const expected = shape[2] === 1 ? shape.slice(0, 2) : shape;
    if (`${sides}` !== `${expected}`) throw new Error(`images of ${sides.join(" × ")} pixels`);
    if (labels.values.length !== n || !labels.values.every((label) => label in classes)) throw new Error("its labels");
    return { images: images.values, labels: labels.values, n, sha256: sha256.values };
  } catch (error) {
    throw new InputError(`the test set is damaged (${error.message})`, "images, labels and sha256 as numpy's .npz",
      "upload the folder again");
  }
}

/** Score `model`; `onProgress` gets the share done, `signal` ends it early by an AbortError. */
export async function measureAccuracy(model, test, { onProgress, signal }) {
  const { side, contract: { labels: names } } = model;
  const counts = new Map(); // of true × classes + predicted
  const batchSize = Math.max(1, Math.min(MAX_BATCH, Math.floor(MAX_BATCH_VALUES / side)));
  for (let at = 0; at < test.n; at += batchSize) {
    signal.throwIfAborted();
    const end = Math.min(test.n, at + batchSize);
    const logits = await model.run(model.prepare(test.images.subarray(at * side, end * side)));
    for (let i = at; i < end; i++) {
      const row = logits.subarray((i - at) * names.length, (i - at + 1) * names.length);
      const cell = test.labels[i] * names.length + row.indexOf(Math.max(...row));
      counts.set(cell, (counts.get(cell) ?? 0) + 1);
    }
    onProgress(end / test.n);
    await new Promise((resume) => { setTimeout(resume); }); // lets the page draw and be stopped
  }
  return score(counts, names, test);
}

function score(counts, names, { n, sha256 }) {
  const cells = [...counts].map(([cell, count]) => [Math.floor(cell / names.length), cell % names.length, count]);
  const [nHits, nTrue, nSaid] = [0, 1, 2].map(() => names.map(() => 0));
  for (const [i, j, count] of cells) {
    nTrue[i] += count;
    nSaid[j] += count;
    if (i === j) nHits[i] = count;
  }
  const share = (part, whole) => (whole ? part / whole : null);
  const classes = names.map((label, i) => {
    const [hits, isOf, said] = [nHits[i], nTrue[i], nSaid[i]];
    const [precision, recall, f1] = [share(hits, said), share(hits, isOf), share(2 * hits, isOf + said)];
    return { label, n: isOf, precision, recall, f1 };
  });
  const nCorrect = nHits.reduce((sum, hits) => sum + hits, 0);
  const [accuracy, interval] = [nCorrect / n, wilsonInterval(nCorrect, n)];
  const isSmall = names.length <= MAX_MATRIX;
  const confusion = isSmall ? names.map((_, i) => names.map((_, j) => counts.get(i * names.length + j) ?? 0)) : [];
  const wrong = cells.filter(([i, j]) => i !== j).sort((a, b) => b[2] - a[2] || a[0] - b[0] || a[1] - b[1]);
  const confused = isSmall ? [] : wrong.slice(0, N_WORST)
    .map(([i, j, count]) => ({ true: names[i], predicted: names[j], n: count, n_of_class: nTrue[i] }));
  return { n, n_correct: nCorrect, accuracy, interval, classes, confusion, confused, test_sha256: sha256 };
}

/** Return the 95 % interval of a proportion; runtime/measure/stats.py names the source. */
function wilsonInterval(nHits, n) {
  const rate = nHits / n;
  const spread = Z_95 * Math.sqrt(rate * (1 - rate) / n + Z_95 ** 2 / (4 * n * n));
  const [centre, scale] = [rate + Z_95 ** 2 / (2 * n), 1 + Z_95 ** 2 / n];
  return { low: Math.max(0, (centre - spread) / scale), high: Math.min(1, (centre + spread) / scale) };
}

/** Return { shape, values } of a member of an .npz: bytes, whole numbers or one text. */
async function readArray(bytes, name) {
  const data = await unzip(bytes, `${name}.npy`);
  const view = new DataView(data.buffer, data.byteOffset);
  const isShort = data[6] === 1; // the format's version
  const start = isShort ? 10 + view.getUint16(8, true) : 12 + view.getUint32(8, true);
  const header = new TextDecoder("latin1").decode(data.subarray(isShort ? 10 : 12, start));
  const [, type] = /'descr': '([^']+)'/.exec(header);
  const [, axes] = /'shape': \(([^)]*)\)/.exec(header);
  const shape = axes.split(",").filter((axis) => axis.trim()).map(Number);
  const body = data.slice(start);
  if (type.startsWith("<U")) {
    const letters = new Uint32Array(body.buffer);
    return { shape, values: String.fromCodePoint(...letters.filter((letter) => letter)) };
  }
  const values = { "|u1": () => body, "<i8": () => Float64Array.from(new BigInt64Array(body.buffer), Number) }[type]();
  if (values.length !== shape.reduce((a, b) => a * b, 1)) throw new Error(`${values.length} values in ${name}`);
  return { shape, values };
}

/** Return a member of a zip of few members without a comment. */
async function unzip(bytes, wanted) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const u16 = (at) => view.getUint16(at, true);
  const u32 = (at) => view.getUint32(at, true);
  const directory = bytes.length - 22; // its end record
  let at = u32(directory + 16);
  for (let n = u16(directory + 10); n > 0; n--) {
    const [method, packedSize, size, nameSize, local] = [u16(at + 10), u32(at + 20), u32(at + 24), u16(at + 28), u32(at + 42)];
    if (new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameSize)) === wanted) {
      const start = local + 30 + u16(local + 26) + u16(local + 28);
      const packed = bytes.subarray(start, start + packedSize);
      if (size > MAX_BYTES || ![STORED, DEFLATED].includes(method)) throw new Error(`${size} bytes by method ${method}`);
      const data = method === STORED ? packed : await unpack(packed, "deflate-raw", size);
      if (data.length !== size) throw new Error(`${data.length} bytes of ${wanted}, not ${size}`);
      return data;
    }
    at += 46 + nameSize + u16(at + 30) + u16(at + 32);
  }
  throw new Error(`no ${wanted}`);
}
