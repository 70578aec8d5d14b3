// Decode a picture with the browser's own decoders and bring it to the model's pixels.

import { InputError } from "./contract.js";
import { fit } from "./fit.js";
import { EXPECTED, MAX_PIXELS, inspect } from "./formats.js";

const MAX_BYTES = 64 * 2 ** 20;

/**
 * Return { pixels, isInverted, unevenness } of an encoded picture, bytes or a file; see `fit` for
 * `invert`. `onBitmap` may look at the decoded picture.
 */
export async function decodePicture(encoded, preprocessing, { name = "the picture", invert = null, onBitmap } = {}) {
  const blob = new Blob([encoded]);
  // a profile of colours may fill megabytes before the header that tells the channels
  const isGrey = inspect(new Uint8Array(await blob.slice(0, MAX_BYTES).arrayBuffer()), name);
  try {
    if (blob.size > MAX_BYTES) throw new Error(`${blob.size.toLocaleString("en")} bytes`);
    // Pillow ignores colour profiles too; EXIF's orientation is followed
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
    onBitmap?.(bitmap);
    return fitBitmap(bitmap, preprocessing, { invert, isGrey });
  } catch (error) {
    throw new InputError(`${name} is damaged or too large (${error.message})`, EXPECTED, "choose another, or save it anew");
  }
}

/** Return what `fit` makes of a bitmap, and close it. */
export function fitBitmap(bitmap, preprocessing, { invert = null, isGrey = false } = {}) {
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) throw new Error(`${width} × ${height} pixels`);
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const read = (left, top, columns, rows) => {
    Object.assign(context.canvas, { width: columns, height: rows });
    context.fillStyle = "white";
    context.fillRect(0, 0, columns, rows);
    context.drawImage(bitmap, -left, -top);
    return context.getImageData(0, 0, columns, rows).data;
  };
  const seen = fit({ width, height, stride: 4, channels: 3, isGrey, read }, preprocessing, invert);
  bitmap.close();
  return seen;
}
