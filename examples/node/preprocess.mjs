// Turn a PNG or JPEG into the model's pixels: pngjs and jpeg-js decode, the page's fit.js does the
// arithmetic of convnet_edge/runtime/preprocess.py.

import jpeg from "jpeg-js";
import { PNG } from "pngjs";
import { InputError } from "../../convnet_edge/web/contract.js";
import { fit, greyOf } from "../../convnet_edge/web/fit.js";

const MAX_PIXELS = 89_478_485; // as in Python
const EXPECTED = `a PNG or JPEG of at most ${Math.floor(MAX_PIXELS / 1e6)} million pixels`;

/** Return { pixels, isInverted } of an encoded picture: pixels is the Uint8Array that the model takes. */
export function decodePicture(encoded, shape, { name = "the picture" } = {}) {
  const bytes = Buffer.from(encoded);
  const isPng = bytes.subarray(0, 8).toString("latin1") === "\x89PNG\r\n\x1a\n";
  const isJpeg = bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff;
  if (!isPng && !isJpeg) {
    throw new InputError(`${name} is not a PNG or JPEG`, EXPECTED, "name a picture file");
  }
  try {
    const { data, width, height, exif } = isPng ? readPng(bytes) : readJpeg(bytes);
    return fit(turn({ grey: greyOf(data), width, height }, exif ? readOrientation(exif) : 1), shape);
  } catch (error) {
    throw new InputError(`${name} is damaged or too large: ${error.message ?? error}`, EXPECTED,
      "save the picture again");
  }
}

function readPng(bytes) {
  if (bytes.readUInt32BE(16) * bytes.readUInt32BE(20) > MAX_PIXELS) throw new Error("its size");
  let exif = null;
  for (let at = 8; at + 8 <= bytes.length; at += 12 + bytes.readUInt32BE(at)) {
    if (bytes.toString("latin1", at + 4, at + 8) === "eXIf") exif = bytes.subarray(at + 8);
  }
  return { ...PNG.sync.read(bytes), exif };
}

function readJpeg(bytes) {
  const limits = { maxResolutionInMP: MAX_PIXELS / 1e6, maxMemoryUsageInMB: 2048 };
  const picture = jpeg.decode(bytes, { useTArray: true, tolerantDecoding: false, ...limits });
  return { ...picture, exif: picture.exifBuffer && Buffer.from(picture.exifBuffer).subarray(1) };
}

/** Read tag 0x0112 out of the first directory of EXIF's TIFF; 1 (upright) without it. */
function readOrientation(tiff) {
  if (tiff.length < 8) return 1;
  const little = tiff[0] === 0x49;
  const u16 = (at) => (little ? tiff.readUInt16LE(at) : tiff.readUInt16BE(at));
  const directory = little ? tiff.readUInt32LE(4) : tiff.readUInt32BE(4);
  if (directory + 2 > tiff.length) return 1;
  for (let n = u16(directory), at = directory + 2; n > 0 && at + 12 <= tiff.length; n--, at += 12) {
    if (u16(at) === 0x0112) return u16(at + 8);
  }
  return 1;
}

/** Turn and mirror as EXIF's orientation says. */
function turn({ grey, width, height }, orientation) {
  const isSwapped = orientation >= 5 && orientation <= 8;
  const [newWidth, newHeight] = isSwapped ? [height, width] : [width, height];
  const turned = new Float64Array(grey.length);
  for (let i = 0; i < grey.length; i++) {
    const [x, y] = [i % newWidth, Math.floor(i / newWidth)];
    let [column, row] = isSwapped ? [y, x] : [x, y];
    if ([2, 3, 7, 8].includes(orientation)) column = width - 1 - column;
    if ([3, 4, 6, 7].includes(orientation)) row = height - 1 - row;
    turned[i] = grey[row * width + column];
  }
  return { grey: turned, width: newWidth, height: newHeight };
}
