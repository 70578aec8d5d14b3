// Decode a picture with the browser's own decoders and bring it to the model's pixels.

import { InputError } from "./contract.js";
import { fit, greyOf } from "./fit.js";

const MAX_BYTES = 64 * 2 ** 20;

/** Return { pixels, isInverted } of an encoded picture, bytes or a file; see `fit` for `invert`. */
export async function decodePicture(encoded, shape, { name = "the picture", invert = null } = {}) {
  const blob = new Blob([encoded]);
  try {
    if (blob.size > MAX_BYTES) throw new Error(`${blob.size.toLocaleString("en")} bytes`);
    // Pillow ignores colour profiles too; EXIF's orientation is followed
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
    const { width, height } = bitmap;
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const grey = greyOf(context.getImageData(0, 0, width, height).data);
    return fit({ grey, width, height }, shape, invert);
  } catch (error) {
    throw new InputError(`${name} is no picture, damaged or too large (${error.message})`,
      "a PNG, JPEG, WebP or other picture that this browser can open", "choose another, or save it anew");
  }
}
