// Tell what an encoded picture is, and refuse what decoders do not agree on: some turn a WebP as its
// EXIF says and some do not, each has its own colours of CMYK. examples/node uses this file too.

import { InputError } from "./contract.js";

export const MAX_PIXELS = 89_478_485; // as in Python
export const EXPECTED = `PNG, or JPEG in grey or RGB, of at most ${Math.floor(MAX_PIXELS / 1e6)} million pixels`;

const SIGNS = {
  PNG: /^\x89PNG\r\n\x1a\n/,
  JPEG: /^\xff\xd8\xff/,
  GIF: /^GIF8[79]a/,
  WebP: /^RIFF.{4}WEBP/s,
  BMP: /^BM/,
  PPM: /^P[1-6]\s/,
  TIFF: /^(II\*\0|MM\0\*)/,
  AVIF: /^.{4}ftyp.{0,24}avi[fs]/s,
  HEIC: /^.{4}ftyp.{0,24}(hei[cmsx]|hevc|mif1|msf1)/s,
  "JPEG XL": /^(\xff\x0a|\0\0\0\x0cJXL )/,
  PDF: /^%PDF/,
  SVG: /^(\xef\xbb\xbf)?\s*<(\?xml|!--|svg)/,
};

/** Refuse a picture that is not as EXPECTED; tell whether it can hold nothing but opaque grey values. */
export function inspect(bytes, name) {
  const head = String.fromCharCode(...bytes.subarray(0, 4096));
  const format = Object.keys(SIGNS).find((one) => SIGNS[one].test(head));
  if (format === "PNG") return bytes[25] === 0 && !head.split("IDAT")[0].includes("tRNS");
  const channels = format === "JPEG" ? jpegChannels(bytes) : null;
  if (format === "JPEG" && channels !== 4) return channels === 1;
  const found = format ? `a ${channels ? "CMYK " : ""}${format} file` : "no picture that is known here";
  throw new InputError(`${name} is ${found}`, EXPECTED, "save it as PNG or JPEG, or take a screenshot of it");
}

/** Return how many values a pixel of a JPEG has, null where none of its headers says so. */
function jpegChannels(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const step = (at) => (bytes[at + 1] === 0xff ? 1 : 2 + view.getUint16(at + 2)); // 0xff may fill a gap
  for (let at = 2; at + 9 < bytes.length && bytes[at] === 0xff; at += step(at)) {
    const isFrame = (bytes[at + 1] & 0xf0) === 0xc0 && ![0xc4, 0xc8, 0xcc].includes(bytes[at + 1]);
    if (isFrame) return bytes[at + 9];
  }
  return null;
}
