// Tell by its first bytes what an encoded picture is; examples/node uses this file too.

const SIGNS = {
  PNG: /^\x89PNG\r\n\x1a\n/,
  JPEG: /^\xff\xd8\xff/,
  GIF: /^GIF8[79]a/,
  WebP: /^RIFF.{4}WEBP/s,
  BMP: /^BM/,
  TIFF: /^(II\*\0|MM\0\*)/,
  AVIF: /^.{4}ftyp.{0,24}avi[fs]/s,
  HEIC: /^.{4}ftyp.{0,24}(hei[cmsx]|hevc|mif1|msf1)/s,
  "JPEG XL": /^(\xff\x0a|\0\0\0\x0cJXL )/,
  PDF: /^%PDF/,
  SVG: /^(\xef\xbb\xbf)?\s*<(\?xml|!--|svg)/,
};

/** Return the name of the format, null of none that is known. */
export function formatOf(bytes) {
  const start = String.fromCharCode(...bytes.subarray(0, 64));
  return Object.keys(SIGNS).find((name) => SIGNS[name].test(start)) ?? null;
}

/** Tell whether a PNG or JPEG can hold nothing but opaque grey values. */
export function isGrey(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const format = formatOf(bytes);
  if (format === "PNG") {
    const head = new TextDecoder("latin1").decode(bytes.subarray(0, 4096));
    return bytes[25] === 0 && !head.split("IDAT")[0].includes("tRNS");
  }
  if (format !== "JPEG") return false;
  for (let at = 2; at + 9 < bytes.length && bytes[at] === 0xff; at += 2 + view.getUint16(at + 2)) {
    const isFrame = (bytes[at + 1] & 0xf0) === 0xc0 && ![0xc4, 0xc8, 0xcc].includes(bytes[at + 1]);
    if (isFrame) return bytes[at + 9] === 1;
  }
  return false;
}
