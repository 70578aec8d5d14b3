// Turn a picture file into the model's pixels: sharp decodes as Pillow does (both by libjpeg), the
// page's fit.js does the arithmetic of convnet_edge/runtime/pictures/preprocess.py.

import sharp from "sharp";
import { InputError } from "../../convnet_edge/web/contract.js";
import { fit } from "../../convnet_edge/web/fit.js";
import { EXPECTED, MAX_PIXELS, inspect } from "../../convnet_edge/web/formats.js";

// Pillow ignores colour profiles too
const OPTIONS = { failOn: "truncated", ignoreIcc: true, limitInputPixels: MAX_PIXELS };

/**
 * Return { pixels, isInverted, unevenness } of an encoded picture, as `preprocessing` of the
 * contract says: pixels is the Uint8Array that the model takes.
 */
export async function decodePicture(encoded, preprocessing, { name = "the picture" } = {}) {
  const bytes = Buffer.from(encoded);
  const isGrey = inspect(bytes, name);
  try {
    const picture = sharp(bytes, OPTIONS).autoOrient().toColourspace("srgb").ensureAlpha().raw();
    const { data, info: { width, height } } = await picture.toBuffer({ resolveWithObject: true });
    const read = (left, top, columns, rows) => {
      const part = new Uint8Array(3 * columns * rows);
      for (let i = 0; i < columns * rows; i++) {
        const at = 4 * ((top + Math.floor(i / columns)) * width + left + (i % columns));
        const share = data[at + 3] / 255;
        for (let c = 0; c < 3; c++) part[3 * i + c] = Math.floor(255 + (data[at + c] - 255) * share + 0.5); // on white
      }
      return part;
    };
    return fit({ width, height, stride: 3, channels: 3, isGrey, read }, preprocessing);
  } catch (error) {
    throw new InputError(`${name} is damaged or too large: ${error.message.split("\n")[0]}`, EXPECTED,
      "save the picture again");
  }
}
