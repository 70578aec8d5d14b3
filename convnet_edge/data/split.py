"""Decide by digests which pictures train, validate and test, and keep the list of it.

Nothing here looks at pictures or finds near-duplicates: their groups are given.
"""

import json
from collections.abc import Mapping, Sequence
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


def split(
    digests: Array,
    labels: Array,
    groups: Array,
    *,
    published: Array | None,
    validate_share: float,
    listed: Mapping[bytes, int],
) -> Array:
    """Return the part of N pictures, (N,) int8, by (N, 32) uint8 digests of what they are.

    The first 8 bytes are a number, as a share of all that there are: below 0.1 test, below 0.2
    validation, the others train. A group of near-duplicates follows its smallest digest. If a class
    would have no training picture, its group with the largest digest trains. labels, groups: (N,)
    integers. published: (N,) the source's own parts, which stay; only if none of them is validation
    do `validate_share` of train become it. listed: as `read_split` returns it; these pictures keep
    their parts, and new ones near them join them; near some of two parts they are `UNUSED`.

    Raises:
        InputError: no listed picture is among them.
    """
    digests, bounds = np.ascontiguousarray(digests), (SHARE, 2 * SHARE)
    own = digests.view("V32").ravel().tolist()
    known = np.array([listed.get(digest, UNUSED) for digest in own], np.int8)
    if listed and not np.any(known != UNUSED):
        raise InputError(
            f"none of the {len(listed):,} pictures listed for --split is here",
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
    return _decide(shares, labels, groups, fixed=fixed, known=known, bounds=bounds)


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
