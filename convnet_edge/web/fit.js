// Bring grey pixels to the size that the model takes: `fit` of convnet_edge/runtime/preprocess.py.
// Written out because resizers differ between libraries and browsers; examples/node uses it too.

const BRIGHT_BORDER = 127.5;

/** Weigh the colours of RGBA pixels, composited on white: grey values from 0 to 255. */
export function greyOf(data) {
  const grey = new Float64Array(data.length / 4);
  for (let i = 0; i < grey.length; i++) {
    const at = 4 * i;
    const luma = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
    grey[i] = 255 + (luma - 255) * (data[at + 3] / 255);
  }
  return grey;
}

/**
 * Return the pixels, (newHeight x newWidth) light on dark, and whether they are inverted.
 * `invert`: true or false overrule the look at the border; null lets it decide.
 */
export function fit({ grey, width, height }, [newHeight, newWidth], invert = null) {
  let background = borderMedian(grey, width, height);
  const isInverted = invert ?? background > BRIGHT_BORDER;
  if (isInverted) background = 255 - background;
  const scale = Math.min(newHeight / height, newWidth / width);
  const rows = Math.min(newHeight, Math.max(1, Math.floor(height * scale + 0.5)));
  const columns = Math.min(newWidth, Math.max(1, Math.floor(width * scale + 0.5)));
  const narrow = average(grey, { n: height, apart: width }, { size: width, newSize: columns });
  // `average` leaves its result transposed, so the second call turns it back
  const small = average(narrow, { n: columns, apart: height }, { size: height, newSize: rows });
  const canvas = new Uint8Array(newHeight * newWidth).fill(Math.floor(background + 0.5));
  const [top, left] = [Math.floor((newHeight - rows) / 2), Math.floor((newWidth - columns) / 2)];
  for (let i = 0; i < small.length; i++) {
    const value = Math.min(255, Math.max(0, isInverted ? 255 - small[i] : small[i]));
    const at = (top + Math.floor(i / columns)) * newWidth + left + (i % columns);
    canvas[at] = Math.floor(value + 0.5);
  }
  return { pixels: canvas, isInverted };
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
