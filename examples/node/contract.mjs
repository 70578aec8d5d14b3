// Read the contract out of an .onnx file's bytes: labels, input, golden vectors, sample pictures.
// Only the top level of ONNX's ModelProto is walked; running the model is classify.mjs's business.

import { createHash } from "node:crypto";
import { inflateSync } from "node:zlib";

const KEY = "convnet_edge";
const SCHEMA = 2;
const METADATA_PROPS = 14; // the field of ModelProto
const [VARINT, FIXED64, LENGTH, FIXED32] = [0, 1, 2, 5]; // protobuf's wire types

/** An error that the user can mend: what was found, what was expected, what to do next. */
export class InputError extends Error {
  constructor(found, expected, nextStep) {
    super(`${found}; expected ${expected}; next: ${nextStep}`);
  }
}

/** Return the contract of the model in `bytes` (a Buffer), its pictures and images decoded. */
export function readContract(bytes) {
  const entry = findEntry(bytes);
  try {
    const document = JSON.parse(entry.value.toString("utf8"));
    if (document.schema !== SCHEMA) throw new Error(`schema ${document.schema}, not ${SCHEMA}`);
    const { input, output, goldens, preprocessing, digest, class_labels: labels } = document;
    const [, height, width] = input.shape;
    const side = height * width;
    const nImages = goldens.logits.length;
    return {
      labels,
      input,
      output,
      shape: [height, width],
      goldens: { ...goldens, images: inflate(goldens.images, nImages * side), nImages },
      samples: preprocessing.samples.map(({ name, encoded, pixels }) => (
        { name, encoded: Buffer.from(encoded, "base64"), pixels: inflate(pixels, side) })),
      isUnaltered: checkDigests(bytes, entry, digest),
    };
  } catch (error) {
    throw new InputError(`the contract in the file is damaged (${error.message})`,
      "the document that `convnet-edge export` writes", "export the model again");
  }
}

/** Tell whether both SHA-256 digests are those that the file states: nothing changed since. */
function checkDigests(bytes, entry, stated) {
  const graph = Buffer.concat([bytes.subarray(0, entry.start), bytes.subarray(entry.end)]);
  const field = (digits) => `"contract_sha256":"${digits}"`;
  const text = entry.value.toString("latin1")
    .replaceAll(field(stated.contract_sha256), field("0".repeat(64)));
  return sha256(graph) === stated.graph_sha256
    && sha256(Buffer.from(text, "latin1")) === stated.contract_sha256;
}

const sha256 = (data) => createHash("sha256").update(data).digest("hex");

/** Undo zlib and base64, never unpacking more than `size` bytes. */
function inflate(text, size) {
  const pixels = inflateSync(Buffer.from(text, "base64"), { maxOutputLength: size });
  if (pixels.length !== size) throw new Error(`${pixels.length} pixels, not ${size}`);
  return new Uint8Array(pixels);
}

/** Return the one metadata entry that is the contract; bytes[start:end] is its whole field. */
function findEntry(bytes) {
  let entries;
  try {
    entries = [...fields(bytes)]
      .filter(({ number, value }) => number === METADATA_PROPS && value)
      .map(({ start, end, value: message }) => {
        const parts = Object.fromEntries([...fields(message)].map((f) => [f.number, f.value]));
        return { start, end, key: parts[1]?.toString("utf8"), value: parts[2] };
      })
      .filter(({ key, value }) => key === KEY && value);
  } catch (error) {
    throw new InputError(`not a readable ONNX file (${error.message})`,
      "a whole ONNX model", "name a file that `convnet-edge export` wrote");
  }
  if (entries.length !== 1) {
    throw new InputError(`${entries.length || "no"} contracts in the file`,
      "a model that describes itself", "export it with `convnet-edge export`");
  }
  return entries[0];
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
    let size = 0;
    if (wire === VARINT) varint();
    else if (wire === LENGTH) size = varint();
    else if (wire === FIXED64) size = 8;
    else if (wire === FIXED32) size = 4;
    else throw new Error(`wire type ${wire} at byte ${start}`);
    const end = position + size;
    if (end > bytes.length) throw new Error(`${end - bytes.length} bytes are missing`);
    const value = wire === LENGTH ? bytes.subarray(position, end) : null;
    yield { number: Math.floor(tag / 8), value, start, end };
    position = end;
  }
}
