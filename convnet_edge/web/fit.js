// Bring a picture to the pixels that the model takes, as `preprocessing` in its contract says: what
// convnet_edge/runtime/pictures/preprocess.py does. Written out because resizers differ between
// libraries and browsers; examples/node uses it too.
//
// A picture is { width, height, stride, channels, isGrey, read }: read(left, top, columns, rows)
// gives the values of a part, `stride` of them a pixel, of which the first `channels` count. It is
// read in strips, so that a photograph never lies in memory as numbers.

import { WORK_SIDE, remove } from "./background.js";

const GREY_WEIGHTS = [0.299, 0.587, 0.114];
const BRIGHT_BORDER = 127.5;
const STRIP_PIXELS = 1 << 18;
const UNTOUCHED = { background: "keep", invert: "never", fit: "stretch", filter: "area" };

// of Pillow's src/libImaging/Resample.c; how far they reach, in pixels of the coarser side
const FILTERS = {
  bilinear: { reach: 1, weigh: (x) => Math.max(0, 1 - x) },
  bicubic: { reach: 2, weigh: (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : ((2.5 - 0.5 * x) * x - 4) * x + 2) },
};

/**
 * Return { pixels, isInverted, unevenness } of a picture; pixels are (H, W), or (H, W, 3) of RGB.
 * isInverted is null of one that passes untouched: grey, and of the network's size.
 * `invert`: true or false overrule the look at the border; null lets it decide.
 */
export function fit(picture, preprocessing, invert = null) {
  const { size, channels } = preprocessing;
  const isSized = picture.height === size[0] && picture.width === size[1];
  const isReady = picture.isGrey && channels === 1 && isSized && invert === null;
  const { background, filter, ...how } = { ...preprocessing, ...(isReady ? UNTOUCHED : {}) };
  const asked = invert ?? (how.invert === "never" ? false : null);
  if (background === "remove") {
    const { values, width, isInverted, unevenness } = remove(workPicture(picture), asked);
    const object = pictureOf(values, width);
    const { box, newSize } = aim(object, how);
    return { pixels: place(resize(object, box, newSize, filter), newSize, size, [0]), isInverted, unevenness };
  }
  const [border, { box, newSize }] = [readBorder(picture), aim(picture, how)];
  const luma = median(toGrey(border));
  const isInverted = asked ?? luma > BRIGHT_BORDER;
  const small = resize(picture, box, newSize, filter);
  const levels = channels === 1 ? [luma] : [0, 1, 2].map((c) => median(border.filter((_, i) => i % 3 === c)));
  const pixels = place(channels === 1 ? toGrey(small) : small, newSize, size, levels, isInverted);
  return { pixels, isInverted: isReady ? null : isInverted, unevenness: null };
}

/** Return the `box` of the picture that is seen, and the size that it gets. */
function aim({ width, height }, { size: [newHeight, newWidth], fit: how, share }) {
  const box = { left: 0, top: 0, right: width, bottom: height };
  const scales = [newHeight / height, newWidth / width];
  if (how === "pad") {
    const fitted = (side, limit) => Math.min(limit, Math.max(1, Math.floor(side * Math.min(...scales) + 0.5)));
    return { box, newSize: [fitted(height, newHeight), fitted(width, newWidth)] };
  }
  if (how === "crop") {
    const scale = Math.max(...scales) / share;
    const [x, y] = [(width - newWidth / scale) / 2, (height - newHeight / scale) / 2];
    Object.assign(box, { left: x, top: y, right: width - x, bottom: height - y });
  }
  return { box, newSize: [newHeight, newWidth] };
}

/** Return a box of a picture resized, rounded to levels after each pass unless by area. */
function resize(picture, box, [rows, columns], filter) {
  const { width, height, stride, channels } = picture;
  if (columns > box.right - box.left && rows <= box.bottom - box.top) { // down first, as Python
    const read = (left, top, w, h) => transpose(picture.read(top, left, h, w), h, stride);
    const turned = { left: box.top, top: box.left, right: box.bottom, bottom: box.right };
    const small = resize({ ...picture, width: height, height: width, read }, turned, [columns, rows], filter);
    return transpose(small, rows, channels);
  }
  const isExact = filter === "area" || picture.isFloat;
  const Values = isExact ? Float64Array : Uint8ClampedArray;
  const kept = isExact ? (sum) => sum : (sum) => Math.floor(sum + 0.5);
  const across = bands(width, [box.left, box.right], columns, filter);
  const down = bands(height, [box.top, box.bottom], rows, filter);
  const [left, right] = [across[0].first, end(across[columns - 1])];
  const [top, bottom] = [down[0].first, end(down[rows - 1])];
  const line = columns * channels;
  const narrow = new Values((bottom - top) * line);
  const nRows = Math.ceil(STRIP_PIXELS / (right - left));
  for (let y = top; y < bottom; y += nRows) {
    const n = Math.min(nRows, bottom - y);
    const strip = picture.read(left, y, right - left, n);
    for (let row = 0; row < n; row++) {
      const [from, to] = [(row * (right - left) - left) * stride, (y - top + row) * line];
      across.forEach(({ first, weights }, column) => {
        for (let c = 0; c < channels; c++) {
          let [sum, at] = [0, from + first * stride + c];
          for (let k = 0; k < weights.length; k++, at += stride) sum += weights[k] * strip[at];
          narrow[to + column * channels + c] = kept(sum);
        }
      });
    }
  }
  const small = new Values(rows * line);
  down.forEach(({ first, weights }, row) => {
    for (let i = 0; i < line; i++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) sum += weights[k] * narrow[(first - top + k) * line + i];
      small[row * line + i] = kept(sum);
    }
  });
  return small;
}

/** Return (h, w, n) values as (w, h, n). */
const transpose = (values, w, n) => values.map((_, i) => {
  const [place, h] = [Math.floor(i / n), values.length / w / n];
  return values[((place % h) * w + Math.floor(place / h)) * n + (i % n)];
});

const end = ({ first, weights }) => first + weights.length;

/** Return, for each of `newSize` pixels of [from, to], the `first` of `size` and the `weights`. */
function bands(size, [from, to], newSize, filter) {
  const scale = (to - from) / newSize;
  const coarser = Math.max(1, scale);
  return Array.from({ length: newSize }, (_, i) => {
    const centre = from + (i + 0.5) * scale;
    const [low, high] = [centre - scale / 2, centre + scale / 2];
    let [first, last, weigh] = [Math.floor(low), Math.ceil(high), (j) => Math.min(high, j + 1) - Math.max(low, j)];
    if (filter !== "area") {
      const { reach, weigh: curve } = FILTERS[filter];
      [first, last] = [-1, 1].map((side) => Math.floor(centre + side * reach * coarser + 0.5));
      weigh = (j) => curve(Math.abs(j + 0.5 - centre) / coarser);
    }
    [first, last] = [Math.max(0, first), Math.min(size, last)];
    const weights = Float64Array.from({ length: last - first }, (_, k) => weigh(first + k));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

/** Centre values on a canvas of `levels`, one a channel, as bytes, inverted if asked. */
function place(values, [rows, columns], [height, width], levels, isInverted = false) {
  const channels = levels.length;
  const level = (value) => Math.floor(Math.min(255, Math.max(0, isInverted ? 255 - value : value)) + 0.5);
  const canvas = Uint8Array.from({ length: height * width * channels }, (_, i) => level(levels[i % channels]));
  const [top, left] = [Math.floor((height - rows) / 2), Math.floor((width - columns) / 2)];
  const line = columns * channels;
  values.forEach((value, i) => {
    canvas[((top + Math.floor(i / line)) * width + left) * channels + (i % line)] = level(value);
  });
  return canvas;
}

/** Return the grey picture that the background is taken from, its longer side at most WORK_SIDE. */
function workPicture(picture) {
  const size = [picture.height, picture.width].map((side) => Math.min(side, WORK_SIDE));
  const { box, newSize: [height, width] } = aim(picture, { size, fit: "pad" });
  return { values: toGrey(resize(picture, box, [height, width], "area")), width, height };
}

function pictureOf(values, width) {
  const read = (left, top, columns, rows) => Float64Array.from({ length: columns * rows }, (_, i) => (
    values[(top + Math.floor(i / columns)) * width + left + (i % columns)]));
  return { width, height: values.length / width, stride: 1, channels: 1, isFloat: true, read };
}

/** Return the outermost pixels, corners once, without what the stride skips. */
function readBorder({ width: w, height: h, stride, channels, read }) {
  const sides = Math.min(w, h) > 1
    ? [[0, 0, w - 1, 1], [w - 1, 0, 1, h - 1], [1, h - 1, w - 1, 1], [0, 1, 1, h - 1]] : [[0, 0, w, h]];
  return Float64Array.from(sides.flatMap((side) => [...read(...side)].filter((_, i) => i % stride < channels)));
}

/** Weigh the colours of RGB values: grey, not rounded. */
function toGrey(values) {
  const [red, green, blue] = GREY_WEIGHTS;
  return Float64Array.from({ length: values.length / 3 }, (_, i) => (
    red * values[3 * i] + green * values[3 * i + 1] + blue * values[3 * i + 2]));
}

function median(values) {
  const [sorted, middle] = [values.slice().sort(), values.length >> 1]; // typed: by value
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
