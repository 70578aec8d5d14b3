// Turn a PNG or JPEG into the model's pixels: the steps of convnet_edge/runtime/preprocess.py.
// pngjs and jpeg-js decode; the arithmetic is ours, because resizers differ between libraries.

import jpeg from "jpeg-js";
import { PNG } from "pngjs";
import { InputError } from "./contract.mjs";

const MAX_PIXELS = 89_478_485; // as in Python
const EXPECTED = `a PNG or JPEG of at most ${Math.floor(MAX_PIXELS / 1e6)} million pixels`;

/** Return the (height x width) Uint8Array that the model takes of an encoded picture. */
export function decodePicture(bytes, [height, width], name = "the picture") {
  const isPng = bytes.subarray(0, 8).toString("latin1") === "\x89PNG\r\n\x1a\n";
  const isJpeg = bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff;
  if (!isPng && !isJpeg) {
    throw new InputError(`${name} is not a PNG or JPEG`, EXPECTED, "name a picture file");
  }
  try {
    return fit(turn(greyOf(isPng ? readPng(bytes) : readJpeg(bytes))), height, width);
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

/** Composite RGBA on white and weigh the colours: grey values from 0 to 255. */
function greyOf({ data, width, height, exif }) {
  const grey = new Float64Array(width * height);
  for (let i = 0; i < grey.length; i++) {
    const at = 4 * i;
    const luma = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
    grey[i] = 255 + (luma - 255) * (data[at + 3] / 255);
  }
  return { grey, width, height, orientation: exif ? readOrientation(exif) : 1 };
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
function turn({ grey, width, height, orientation }) {
  if (!(orientation > 1 && orientation <= 8)) return { grey, width, height };
  const isSwapped = orientation >= 5;
  const [newWidth, newHeight] = isSwapped ? [height, width] : [width, height];
  const turned = new Float64Array(grey.length);
  for (let y = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++) {
      let [column, row] = isSwapped ? [y, x] : [x, y];
      if ([2, 3, 7, 8].includes(orientation)) column = width - 1 - column;
      if ([3, 4, 6, 7].includes(orientation)) row = height - 1 - row;
      turned[y * newWidth + x] = grey[row * width + column];
    }
  }
  return { grey: turned, width: newWidth, height: newHeight };
}

/** Invert if the border is bright, average to size, centre on the border's median, round. */
function fit({ grey, width, height }, newHeight, newWidth) {
  let background = borderMedian(grey, width, height);
  const isBright = background > 127.5;
  if (isBright) background = 255 - background;
  const scale = Math.min(newHeight / height, newWidth / width);
  const rows = Math.min(newHeight, Math.max(1, Math.floor(height * scale + 0.5)));
  const columns = Math.min(newWidth, Math.max(1, Math.floor(width * scale + 0.5)));
  const narrow = average(grey, { n: height, apart: width }, { size: width, newSize: columns });
  // `average` leaves its result transposed, so the second call turns it back
  const small = average(narrow, { n: columns, apart: height }, { size: height, newSize: rows });
  const canvas = new Uint8Array(newHeight * newWidth).fill(Math.floor(background + 0.5));
  const [top, left] = [Math.floor((newHeight - rows) / 2), Math.floor((newWidth - columns) / 2)];
  for (let i = 0; i < small.length; i++) {
    const value = Math.min(255, Math.max(0, isBright ? 255 - small[i] : small[i]));
    const at = (top + Math.floor(i / columns)) * newWidth + left + (i % columns);
    canvas[at] = Math.floor(value + 0.5);
  }
  return canvas;
}

/** Average the spans of `newSize` output pixels in each of `n` lines; the result is transposed. */
function average(values, { n, apart }, { size, newSize }) {
  const averaged = new Float64Array(newSize * n);
  for (let i = 0; i < newSize; i++) {
    const [from, to] = [(i * size) / newSize, ((i + 1) * size) / newSize];
    for (let j = Math.floor(from); j < Math.min(size, Math.ceil(to)); j++) {
      const weight = (Math.min(to, j + 1) - Math.max(from, j)) / (to - from);
      for (let line = 0; line < n; line++) {
        averaged[i * n + line] += weight * values[line * apart + j];
      }
    }
  }
  return averaged;
}

/** Return the median of the outermost pixels, corners once. */
function borderMedian(grey, width, height) {
  const isOutermost = (_, i) => (
    i < width || i >= width * (height - 1) || i % width === 0 || i % width === width - 1);
  const border = grey.filter(isOutermost).sort();
  const middle = border.length >> 1;
  return border.length % 2 ? border[middle] : (border[middle - 1] + border[middle]) / 2;
}
