// Intervals and percentiles that say no more than their samples carry: as convnet_edge's
// runtime/stats.py, whose docstrings name the sources. Tests hold the two against each other.

const Z_95 = 1.959963984540054;
const MAX_UNSEEN_TAIL = 0.01;
export const PERCENTILES = [0.5, 0.9, 0.95, 0.99, 0.999];

const ascending = (values) => Float64Array.from(values).sort();

export function median(values) {
  const ordered = ascending(values);
  const middle = ordered.length >> 1;
  return ordered.length % 2 ? ordered[middle] : (ordered[middle - 1] + ordered[middle]) / 2;
}

/** Return the 95 % interval of a proportion (Wilson). */
export function wilsonInterval(nHits, n) {
  const rate = nHits / n;
  const spread = Z_95 * Math.sqrt(rate * (1 - rate) / n + Z_95 ** 2 / (4 * n * n));
  const [centre, scale] = [rate + Z_95 ** 2 / (2 * n), 1 + Z_95 ** 2 / n];
  return { low: Math.max(0, (centre - spread) / scale), high: Math.min(1, (centre + spread) / scale) };
}

/** Return the fewest samples from which percentile `p` may be stated. */
export function percentileFloor(p) {
  const unseen = (n) => p ** n + n * (1 - p) * p ** (n - 1);
  let [low, high] = [1, 2];
  while (unseen(high) > MAX_UNSEEN_TAIL) [low, high] = [high, high * 2];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    [low, high] = unseen(middle) > MAX_UNSEEN_TAIL ? [middle, high] : [low, middle];
  }
  return high;
}

/** Return percentile `p` by nearest rank with its order-statistic interval; null below its floor. */
export function percentile(samples, p) {
  const [n, floor] = [samples.length, percentileFloor(p)];
  if (n < floor) return { p, floor, value: null, low: null, high: null };
  const ordered = ascending(samples);
  const [low, high] = intervalRanks(n, p);
  const rank = Math.max(1, Math.ceil(p * n - 1e-9));
  const [value, lower, upper] = [rank, low, high].map((index) => ordered[index - 1]);
  return { p, floor, value, low: lower, high: upper };
}

/** Return 1-based ranks with P(Bin < low) <= 2.5 % and P(Bin >= high) <= 2.5 %. */
function intervalRanks(n, p) {
  const [mean, deviation] = [n * p, Math.sqrt(n * p * (1 - p))];
  const first = Math.max(0, Math.floor(mean - 9 * deviation - 9));
  const last = Math.min(n, Math.ceil(mean + 9 * deviation + 9));
  let [cumulative, low] = [0, 1];
  for (let k = first; k <= last; k++) {
    const logPmf = logGamma(n + 1) - logGamma(k + 1) - logGamma(n - k + 1)
      + k * Math.log(p) + (n - k) * Math.log1p(-p);
    if (cumulative <= 0.025) low = Math.max(1, k);
    cumulative += Math.exp(logPmf);
    if (cumulative >= 0.975) return [low, Math.min(n, k + 1)];
  }
  return [low, n];
}

/** Return ln Γ(x) for x >= 1: Stirling's series, after stepping up to where it is exact. */
function logGamma(x) {
  let [shift, at] = [0, x];
  for (; at < 10; at++) shift += Math.log(at);
  const square = 1 / (at * at);
  const series = (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680))) / at;
  return (at - 0.5) * Math.log(at) - at + 0.5 * Math.log(2 * Math.PI) + series - shift;
}
