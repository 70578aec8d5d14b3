"""Decide by digests which pictures train, validate and test, and keep the list of it.

Nothing here looks at pictures or finds near-duplicates: their groups are given.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.contract import Array
from ..runtime.errors import InputError
from ..runtime.files import MIB, read_bytes, write_json
from .scan import PARTS, Entry, names_within

TRAIN, VALIDATION, TEST = range(len(PARTS))
UNUSED = -1
SHARE = 0.1  # of test, and of validation
SCHEMA = 1
MAX_LIST_BYTES = 1024 * MIB


@dataclass(frozen=True)
class Split:
    """Where each picture goes.

    parts: (N,) int8, an index into `PARTS`, or `UNUSED`. torn: pictures that are left out, as they
    are near listed ones of two parts. n_gone: listed pictures that are not there any more.
    """

    parts: Array
    torn: tuple[int, ...]
    n_gone: int


def split(
    digests: Array,
    labels: Array,
    groups: Array,
    *,
    published: Array | None = None,
    validate_share: float = 0.0,
    listed: Mapping[bytes, int] | None = None,
) -> Split:
    """Decide the part of N pictures, by (N, 32) uint8 digests of what they are.

    The first 8 bytes are a number, as a share of all that there are: below 0.1 test, below 0.2
    validation, the others train. A group of near-duplicates follows its smallest digest. If a class
    would have no training picture, its group with the largest digest trains. labels, groups: (N,)
    integers. published: (N,) the source's own parts, which stay; only if none of them is validation
    do `validate_share` of train become it. listed: as `read_split` returns it; these pictures keep
    their parts, and new ones near them join them.

    Raises:
        InputError: no listed picture is among them.
    """
    listed, bounds = listed or {}, (SHARE, 2 * SHARE)
    digests = np.ascontiguousarray(digests)
    own = digests.view("V32").ravel().tolist()
    known = np.array([listed.get(digest, UNUSED) for digest in own], np.int8)
    n_gone = len(listed.keys() - set(own))
    if listed and n_gone == len(listed):
        raise InputError(
            f"none of the {n_gone:,} pictures listed for --split is here",
            expected="the list of these pictures",
            next_step="name another with --split, or leave it out",
        )
    fixed = np.full(len(own), UNUSED)
    if published is not None:
        bounds = 0.0, validate_share
        known[known == TEST] = UNUSED
        is_open = (published == TRAIN) & (VALIDATION not in published)
        fixed = np.where(is_open, UNUSED, published)
    shares = np.ascontiguousarray(digests[:, :8]).view(">u8").ravel() / 2.0**64
    groups = np.unique(groups, return_inverse=True)[1]
    parts = _decide(shares, labels, groups, fixed=fixed, known=known, bounds=bounds)
    return Split(parts, tuple(np.flatnonzero(parts == UNUSED).tolist()), n_gone)


def _decide(
    shares: Array,
    labels: Array,
    groups: Array,
    *,
    fixed: Array,
    known: Array,
    bounds: tuple[float, float],
) -> Array:
    """Return the part of each picture: the `fixed` one, the `known` one, or by the digests.

    shares: (N,) in [0, 1); groups: (N,) numbered from 0; fixed, known: (N,) parts or `UNUSED`.
    """
    is_open = fixed == UNUSED
    is_known = is_open & (known != UNUSED)
    n_groups = groups.max(initial=-1) + 1
    smallest = np.ones(n_groups)
    np.minimum.at(smallest, groups[is_open], shares[is_open])
    drawn = np.array([TEST, VALIDATION, TRAIN])[np.digitize(smallest, bounds)]
    # the first and the last of the parts that a group's known pictures have
    first, last = np.full(n_groups, len(PARTS)), np.full(n_groups, UNUSED)
    np.minimum.at(first, groups[is_known], known[is_known])
    np.maximum.at(last, groups[is_known], known[is_known])
    is_drawn = is_open & (last == UNUSED)[groups]
    of_group = np.where(last == UNUSED, drawn, np.where(first == last, last, UNUSED))
    parts = np.select([~is_open, is_known], [fixed, known], of_group[groups]).astype(np.int8)
    for label in np.setdiff1d(labels, labels[parts == TRAIN]):
        candidates = groups[is_drawn & (labels == label)]
        if len(candidates):
            parts[is_drawn & (groups == candidates[smallest[candidates].argmax()])] = TRAIN
    return parts


def write_split(
    path: Path, source: str, *, entries: Sequence[Entry], digests: Array, parts: Array
) -> None:
    """Write which picture is in which part, by its digest; the rest is for people."""
    rows = zip(digests, parts.tolist(), names_within(source, entries), entries, strict=True)
    pictures = {
        digest.tobytes().hex(): {"part": PARTS[part], "label": entry.label, "path": name}
        for digest, part, name, entry in rows
        if part != UNUSED
    }
    write_json(path, {"schema": SCHEMA, "source": source, "pictures": pictures})


def read_split(path: Path) -> dict[bytes, int]:
    """Return the part, an index into `PARTS`, of each digest that a list holds.

    Raises:
        InputError: it cannot be read, or is none.
    """
    data = read_bytes(path, limit=MAX_LIST_BYTES, next_step="name another list with --split")
    try:
        document = json.loads(data)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {str(document['schema'])[:80]}, not {SCHEMA}")
        pictures = document["pictures"].items()
        listed = {bytes.fromhex(key): PARTS.index(one["part"]) for key, one in pictures}
        if not all(len(digest) == 32 for digest in listed):
            raise ValueError("digests that are none")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is no list of a split, or damaged ({type(error).__name__}: {str(error)[:80]})",
            expected="a NAME.split.json as `train` writes it",
            next_step="name another with --split, or leave it out: then the digests decide",
        ) from error
    return listed
