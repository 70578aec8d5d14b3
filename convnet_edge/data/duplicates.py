"""Find pictures that a data set holds twice: equal in every pixel, or nearly so.

Takes pixels at the network's size, (N, H, W) or (N, H, W, 3) uint8, which may lie on disk. What a
pair across splits or classes means, others decide.
"""

import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..runtime.measure.stats import Array

GREY_WEIGHTS = np.array([299.0, 587.0, 114.0])  # whole numbers: their sums are exact in any order
MIN_STEP = 2  # levels of grey: smaller ones are noise's and JPEG's to decide
MIN_BITS = 4  # set and unset; with 8, one letter in five on a plain ground could not be found
MAX_BITS = 6  # that differ, so that of 8 bytes at least 2 are equal
N_NEIGHBOURS = 32
SIDE, BLOCK = 32, 4  # pixels
MAX_LEVELS, MAX_SHARE = 5.0, 0.2  # of grey; of the contrast, which is low where all is noise
IN_BLOCK = 2  # times as much in the mean of a block
BATCH_BYTES, BATCH_PAIRS, BATCH_PICTURES = 1 << 20, 1024, 1 << 15
BITS = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


@dataclass(frozen=True)
class Duplicates:
    """What stands twice, by index.

    first: (N,) the first picture of the same pixels; often itself. near: (P, 2) pairs of such first
    ones. distances: (P,) mean difference of a pair's pixels, in levels of grey.
    """

    first: Array
    near: Array
    distances: Array

    def pairs(self, is_used: Array) -> Iterator[tuple[int, int, float | None]]:
        """Yield what is alike of the pictures that `is_used`, (N,) bool, marks.

        Equal pictures, each with the first of them, then near ones with their distance.
        """
        used = np.flatnonzero(is_used)
        _, at, group = np.unique(self.first[used], return_index=True, return_inverse=True)
        for one, other in zip(used[at[group]].tolist(), used.tolist(), strict=True):
            if one != other:
                yield one, other, None
        near = is_used[self.near].all(axis=1)
        for pair, distance in zip(self.near[near].tolist(), self.distances[near], strict=True):
            yield *pair, float(distance)

    def groups(self) -> Array:
        """Return for each picture the smallest index that pairs lead to from it: (N,)."""
        labels = self.first.copy()
        one, other = labels[self.near].T
        while np.any(labels[one] != labels[other]):
            lower = np.minimum(labels[one], labels[other])
            for side in (labels[one], labels[other]):
                np.minimum.at(labels, side, lower)
            while np.any(labels[labels] != labels):
                labels = labels[labels]
        return labels


def dhashes(pixels: Array) -> Array:
    """Return the difference hashes (N,) uint64: which of 9 x 8 areas outshine their left one.

    Source: N. Krawetz, "Kind of like that" (2013), where noise decides on even ground.
    """
    hashes = np.empty(len(pixels), np.uint64)
    for batch in _batches(pixels, len(pixels)):
        sums, unit = _area_sums(pixels[batch], 8, 9)
        bits = np.diff(sums) > MIN_STEP * unit
        hashes[batch] = np.packbits(bits.reshape(-1, 64), axis=1).view(">u8")[:, 0]
    return hashes


def find(pixels: Array, hashes: Array) -> Duplicates:
    """Find the pictures that are there twice; `hashes` are their `dhashes`.

    Near are two whose hashes differ in at most 6 bits and whose grey pixels at 32 x 32 differ on
    average by at most 5 levels and a fifth of the contrast (the smaller standard deviation), in no
    block of 4 x 4 by more than twice that. A hash with fewer than 4 bits set or unset says too
    little. Each picture is compared with the next 32 in brightness that share two given bytes of
    its hash, for any two: the work grows as N, however alike all are.
    """
    digests, limits = np.empty(len(pixels), "S16"), np.empty(len(pixels))
    blocks = np.empty((len(pixels), (SIDE // BLOCK) ** 2), np.uint8)
    for batch in _batches(pixels, len(pixels)):
        part = np.ascontiguousarray(pixels[batch])
        digests[batch] = [hashlib.blake2b(one, digest_size=16).digest() for one in part]
        grey = _grey(part)
        limits[batch] = np.minimum(MAX_LEVELS, MAX_SHARE * grey.std((1, 2)))
        blocks[batch] = _block_means(grey)
    _, distinct, inverse = np.unique(digests, return_index=True, return_inverse=True)
    first = distinct[inverse]
    n_bits = _n_bits(hashes[distinct])
    some = distinct[np.minimum(n_bits, 64 - n_bits) >= MIN_BITS]
    brightness = blocks[some].mean(axis=1)
    order = np.argsort(brightness)
    some, brightness = some[order], brightness[order]
    pairs = some[_candidates(hashes[some], brightness, blocks[some], limits[some])]
    return Duplicates(first, *_confirm(pixels, limits, pairs))


def _candidates(hashes: Array, brightness: Array, blocks: Array, limits: Array) -> Array:
    """Return the places (P, 2) of pictures, in order of brightness, that may be near."""
    octets, n = hashes.view(np.uint8).reshape(-1, 8), max(len(hashes), 1)
    by_block = np.ascontiguousarray(blocks.T)
    found = [np.empty(0, np.int64)]  # a pair as one number
    for first, second in itertools.combinations(range(8), 2):
        # pictures of the same two bytes together, far from others, in order of brightness
        value = (octets[:, first] * 256.0 + octets[:, second]) * 1024 + brightness
        order = np.argsort(value, kind="stable")
        value = value[order]
        last = np.searchsorted(value, value + MAX_LEVELS, "right") - 1
        n_next = np.minimum(last - np.arange(len(value)), N_NEIGHBOURS)
        for start in range(0, len(value), BATCH_PICTURES):
            counts = n_next[start : start + BATCH_PICTURES]
            at = np.repeat(np.arange(start, start + len(counts)), counts)
            step = np.arange(1, len(at) + 1) - np.repeat(np.cumsum(counts) - counts, counts)
            one, other = order[at], order[at + step]
            alike = _n_bits(hashes[one] ^ hashes[other]) <= MAX_BITS
            one, other = one[alike], other[alike]
            for some in (by_block[:: SIDE // BLOCK + 1], by_block):  # most differ in the diagonal
                means, others = some[:, one], some[:, other]
                gaps = (np.maximum(means, others) - np.minimum(means, others)).max(axis=0)
                limit = IN_BLOCK * np.minimum(limits[one], limits[other]) + 1  # rounded
                alike = gaps <= limit
                one, other = one[alike], other[alike]
            found.append(one * n + other)
    return np.stack(np.divmod(np.unique(np.concatenate(found)), n), axis=1)


def _confirm(pixels: Array, limits: Array, pairs: Array) -> tuple[Array, Array]:
    """Return those `pairs` that are near, in order, and their distances."""
    distances = np.empty(len(pairs))
    for start in range(0, len(pairs), BATCH_PAIRS):
        part = slice(start, start + BATCH_PAIRS)
        indices, inverse = np.unique(pairs[part], return_inverse=True)
        grey = np.empty((len(indices), SIDE, SIDE), np.float32)
        for batch in _batches(pixels, len(indices)):
            grey[batch] = _grey(pixels[indices[batch]])
        one, other = inverse.reshape(-1, 2).T
        difference = grey[one] - grey[other]
        distance, limit = np.abs(difference).mean((1, 2)), limits[pairs[part]].min(axis=1)
        in_block = np.abs(_block_means(difference)).max(axis=1)
        is_near = (distance <= limit) & (in_block <= IN_BLOCK * limit)
        distances[part] = np.where(is_near, distance, np.inf)
    near, distances = np.sort(pairs, axis=1)[distances < np.inf], distances[distances < np.inf]
    order = np.lexsort(near.T[::-1])
    return near[order], distances[order]


def _n_bits(hashes: Array) -> Array:
    quarters = hashes.view(np.uint16).reshape(-1, 4).T
    return np.asarray(np.add.reduce([BITS[quarter] for quarter in quarters]))


def _block_means(grey: Array) -> Array:
    n = SIDE // BLOCK
    return np.asarray(grey.reshape(-1, n, BLOCK, n, BLOCK).mean((2, 4)).reshape(-1, n * n))


def _grey(pixels: Array) -> Array:
    sums, unit = _area_sums(pixels, SIDE, SIDE)
    return np.asarray(sums / unit)


def _area_sums(pixels: Array, n_rows: int, n_columns: int) -> tuple[Array, float]:
    """Return sums of grey over equal areas, (N, rows, columns), and the sum of a level.

    They are whole numbers in float64: equal pixels give equal sums, whatever the batch.
    """
    _, height, width, *_ = pixels.shape
    grey = pixels @ GREY_WEIGHTS if pixels.ndim == 4 else pixels * GREY_WEIGHTS.sum()
    sums = _overlaps(height, n_rows) @ (grey @ _overlaps(width, n_columns).T)
    return sums, height * width * GREY_WEIGHTS.sum()


@functools.cache
def _overlaps(size: int, n_parts: int) -> Array:
    """Return how much of each of `size` pixels lies in each of `n_parts`, in n_parts-ths."""
    edges, starts = np.arange(n_parts + 1) * size, np.arange(size) * n_parts
    ends = np.minimum(edges[1:, None], starts + n_parts)
    return np.asarray(np.maximum(ends - np.maximum(edges[:-1, None], starts), 0), np.float64)


def _batches(pixels: Array, n: int) -> Iterator[slice]:
    size = max(1, BATCH_BYTES // max(1, pixels[:1].nbytes))  # what a processor's cache holds
    yield from (slice(start, min(start + size, n)) for start in range(0, n, size))
