// Read the contract out of a model file's bytes: labels, input, golden vectors, sample pictures.
// Only the top level of ONNX's ModelProto is walked; running the model is model.js's business.
// Runs in browsers and in Node: examples/node uses this file too.

const KEY = "convnet_edge";
const SCHEMA = 3;
const METADATA_PROPS = 14; // the field of ModelProto
const [VARINT, LENGTH] = [0, 2]; // protobuf's wire types
const SIZES = { 0: 0, 1: 8, 5: 4 }; // bytes of the other types, behind a VARINT itself

/** An error that the user can mend: what was found, what was expected, what to do next. */
export class InputError extends Error {
  constructor(found, expected, nextStep) {
    super(`${found}; expected ${expected}; next: ${nextStep}`);
  }
}

/**
 * Return the contract of the model in `bytes` (a Uint8Array), its pictures and images decoded.
 * isUnaltered is null where the page may not compute SHA-256 (plain HTTP).
 */
export async function readContract(bytes) {
  const entry = findEntry(bytes);
  try {
    const document = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(entry.value));
    if (document.schema !== SCHEMA) throw new Error(`schema ${document.schema}, not ${SCHEMA}`);
    const { input, output, goldens, preprocessing, class_labels: labels } = document;
    const [channels, height, width] = input.shape;
    const [nImages, side] = [goldens.logits.length, channels * height * width];
    // together: of several that are damaged none may be left without somebody who waits for it
    const [images, ...samples] = await Promise.all([
      inflate(goldens.images, nImages * side),
      ...preprocessing.samples.map(async ({ name, encoded, pixels }) => (
        { name, encoded: fromBase64(encoded), pixels: await inflate(pixels, side) })),
    ]);
    return {
      ...{ labels, input, output, preprocessing, side, document },
      shape: [height, width, channels],
      decision: document.decision,
      goldens: { ...goldens, images, nImages },
      samples,
      isUnaltered: await checkDigest(bytes, entry, document.file_sha256),
    };
  } catch (error) {
    throw new InputError(`the contract in the file is damaged (${error.message})`,
      "the document that `convnet-edge export` writes", "export the model again");
  }
}

/** Return the SHA-256 of `bytes` in hexadecimal, null where the browser does not offer it. */
export async function sha256(bytes) {
  if (!globalThis.crypto?.subtle) return null; // only over HTTPS and on localhost
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Unpack `bytes` ("gzip", or "deflate" for zlib), at most `limit` bytes. */
export async function unpack(bytes, format, limit) {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format)).getReader();
  const whole = new Uint8Array(limit);
  let size = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    whole.set(part.value, size); // a RangeError beyond the limit
    size += part.value.length;
  }
  return whole.subarray(0, size);
}

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

async function inflate(text, size) {
  const pixels = await unpack(fromBase64(text), "deflate", size);
  if (pixels.length !== size) throw new Error(`${pixels.length} pixels, not ${size}`);
  return pixels;
}

/** Tell whether the SHA-256 of the file, its own digits as zeros, is as stated: nothing changed since. */
async function checkDigest(bytes, { start, end }, stated) {
  const zeroed = bytes.slice();
  const letters = new TextDecoder("latin1").decode(bytes.subarray(start, end)); // one letter a byte
  const field = `"file_sha256":"${stated}"`;
  for (let at = letters.indexOf(field); at >= 0; at = letters.indexOf(field, at + 1)) {
    const last = start + at + field.length - 1;
    zeroed.fill("0".charCodeAt(0), last - 64, last);
  }
  const found = await sha256(zeroed);
  return found === null ? null : found === stated;
}

/** Return the `value` of the one metadata entry that is the contract; its field is bytes[start:end]. */
function findEntry(bytes) {
  const entries = [];
  try {
    for (const { number, value: message, start, end } of fields(bytes)) {
      if (number !== METADATA_PROPS || !message) continue;
      const { 1: key, 2: value } = Object.fromEntries([...fields(message)].map((f) => [f.number, f.value]));
      if (key && value && new TextDecoder().decode(key) === KEY) entries.push({ value, start, end });
    }
  } catch (error) {
    throw new InputError(`not a readable ONNX file (${error.message})`,
      "a whole ONNX model", "take a file that `convnet-edge export` wrote");
  }
  if (entries.length === 1) return entries[0];
  throw new InputError(`${entries.length || "no"} contracts in the file`,
    "a model that describes itself", "export it with `convnet-edge export`");
}

/** Yield each field of one protobuf message; `value` is null where it is no string of bytes. */
function* fields(bytes) {
  let position = 0;
  const varint = () => {
    for (let value = 0, scale = 1, n = 0; n < 10; n++, scale *= 128) {
      if (position >= bytes.length) throw new Error("truncated");
      const byte = bytes[position++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
    throw new Error(`endless number at byte ${position}`);
  };
  while (position < bytes.length) {
    const start = position;
    const tag = varint();
    const wire = tag % 8;
    if (wire === VARINT) varint();
    const size = wire === LENGTH ? varint() : SIZES[wire];
    if (size === undefined) throw new Error(`wire type ${wire} at byte ${start}`);
    const end = position + size;
    if (end > bytes.length) throw new Error(`${end - bytes.length} bytes are missing`);
    const value = wire === LENGTH ? bytes.subarray(position, end) : null;
    yield { number: Math.floor(tag / 8), value, start, end };
    position = end;
  }
}
