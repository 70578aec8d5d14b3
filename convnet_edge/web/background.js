// Take an object off its background as runtime/pictures/background.py does, step by step; it says why.

export const WORK_SIDE = 192;
const N_REFITS = 8;
const LEAST_SPREAD = 1;
const LEAST_CONTRAST = 16;
const OBJECT_SHARE = 0.12;
const NO_OBJECT = 1;
const RIDGE = 1e-9;

const sumOf = (n, term) => {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += term(i);
  return sum;
};

/**
 * Return the object in grey `values`, 0 to 255, (height x width) with no side above WORK_SIDE:
 * { values, width, isInverted, unevenness }, light on dark, cropped to it.
 * `invert`: the object is darker (true) or lighter (false); null lets what differs more be it.
 */
export function remove({ values: grey, width, height }, invert = null) {
  const border = [...grey.keys()].filter((i) => (
    i < width || i >= width * (height - 1) || i % width === 0 || i % width === width - 1));
  const terms = (i) => termsOf(Math.floor(i / width), i % width, height, width);
  const bowl = fitBowl(border.map(terms), border.map((i) => grey[i]));
  const difference = grey.map((value, i) => value - dot(bowl, terms(i)));
  const [darker, lighter] = [difference.map((d) => Math.max(-d, 0)), difference.map((d) => Math.max(d, 0))];
  const squares = (side) => sumOf(side.length, (i) => side[i] ** 2);
  const isInverted = invert ?? squares(darker) > squares(lighter);
  const values = isInverted ? darker : lighter;
  const local = localMean(values, height, width);
  const contrast = local.reduce((most, value) => Math.max(most, value), 0);
  if (contrast < LEAST_CONTRAST) return { values, width, isInverted, unevenness: NO_OBJECT };
  const faintest = OBJECT_SHARE * contrast;
  const unevenness = border.filter((i) => Math.abs(difference[i]) >= faintest).length / border.length;
  const places = [...local.keys()].filter((i) => local[i] >= faintest);
  const [top, bottom] = rangeOf(places.map((i) => Math.floor(i / width)));
  const [left, right] = rangeOf(places.map((i) => i % width));
  const isInside = (_, i) => i >= top * width && i < (bottom + 1) * width && i % width >= left && i % width <= right;
  const cropped = values.filter(isInside).map((value) => Math.min(value * (255 / contrast), 255));
  return { values: cropped, width: right - left + 1, isInverted, unevenness };
}

const rangeOf = (all) => all.reduce(([least, most], one) => [Math.min(least, one), Math.max(most, one)], [Infinity, 0]);

/** Return the four parts that a bowl is a sum of, at a pixel. */
function termsOf(row, column, height, width) {
  const longest = Math.max(height, width);
  const [y, x] = [(2 * row - (height - 1)) / longest, (2 * column - (width - 1)) / longest];
  return [1, y, x, y * y + x * x];
}

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];

/** Return the terms' factors: a least squares fit to the values, refitted. */
function fitBowl(terms, values) {
  const n = values.length;
  let [weights, factors] = [new Float64Array(n).fill(1), null];
  for (let refit = 0; refit <= N_REFITS; refit++) {
    const total = sumOf(n, (i) => weights[i]);
    const rows = [0, 1, 2, 3].map((a) => [
      ...[0, 1, 2, 3].map((b) => sumOf(n, (i) => weights[i] * terms[i][a] * terms[i][b]) + (a === b ? RIDGE * total : 0)),
      sumOf(n, (i) => weights[i] * terms[i][a] * values[i]),
    ]);
    factors = solve(rows);
    const distances = values.map((value, i) => Math.abs(value - dot(factors, terms[i])));
    const spread = Math.max(sumOf(n, (i) => weights[i] * distances[i]) / total, LEAST_SPREAD);
    weights = distances.map((distance) => 1 / (1 + (distance / spread) ** 2) ** 2);
  }
  return factors;
}

/** Solve linear equations, each a row that ends with its value, by elimination with pivots. */
function solve(rows) {
  const n = rows.length;
  for (let at = 0; at < n; at++) {
    const pivot = rows.slice(at).reduce((best, row) => (Math.abs(row[at]) > Math.abs(best[at]) ? row : best));
    rows[rows.indexOf(pivot)] = rows[at];
    rows[at] = pivot.map((value) => value / pivot[at]);
    rows = rows.map((row, i) => (i === at ? row : row.map((value, k) => value - row[at] * rows[at][k])));
  }
  return rows.map((row) => row[n]);
}

/** Average each pixel with its eight neighbours; beyond the edge its own pixels go on. */
function localMean(values, height, width) {
  const within = (at, n) => Math.min(n - 1, Math.max(0, at));
  return values.map((_, i) => {
    const [row, column] = [Math.floor(i / width), i % width];
    return sumOf(9, (k) => (
      values[within(row + Math.floor(k / 3) - 1, height) * width + within(column + (k % 3) - 1, width)])) / 9;
  });
}
