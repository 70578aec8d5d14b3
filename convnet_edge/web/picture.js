// Decode a picture with the browser's own decoders and bring it to the model's pixels.

import { InputError } from "./contract.js";
import { fit, greyOf } from "./fit.js";

const MAX_BYTES = 64 * 2 ** 20;
const EXPECTED = "a picture that this browser can open (PNG, JPEG, WebP, …)";

/** Return { pixels, isInverted } of an encoded picture, a Blob; see `fit` for `invert`. */
export async function decodePicture(blob, shape, { name = "the picture", invert = null } = {}) {
  if (blob.size > MAX_BYTES) {
    throw new InputError(`${name} has ${Math.round(blob.size / 2 ** 20)} MB`,
      `at most ${MAX_BYTES / 2 ** 20}`, "scale it down first");
  }
  let bitmap;
  try {
    // Pillow ignores colour profiles too; EXIF's orientation is followed
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch (error) {
    throw new InputError(`${name} is not a picture, or damaged (${error.message})`, EXPECTED,
      "choose another picture, or save this one again");
  }
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let data = null;
  try {
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0);
    ({ data } = context.getImageData(0, 0, width, height));
  } catch (error) {
    throw new InputError(`${name} of ${width} × ${height} pixels is too large for this browser`,
      EXPECTED, `scale it down first (${error.message})`);
  } finally {
    bitmap.close();
  }
  return fit({ grey: greyOf(data), width, height }, shape, invert);
}
