"""Say before the first epoch what is wrong with a data set, and refuse what would falsify a score.

Finds nothing itself: what was read, how it is split and which pictures are alike is given.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..runtime.contract import Array
from ..runtime.errors import MOST_NAMED, CheckFailedError, first, some
from ..runtime.measure.tables import Table, to_text
from .cache import Pictures
from .duplicates import Duplicates
from .scan import PARTS, LeftOut, names_within, require_classes
from .split import UNUSED

MIN_TEST_PICTURES = 20  # of a class
MAX_IMBALANCE = 3
MAX_LISTED = 10_000  # in JSON
TORN = "near pictures that the list has in two splits"
EQUAL = "pixel-equal in two splits or of two labels"
NEAR = "near-duplicates in two splits or of two labels"
LISTS = {"left_out": "left out", "leaks": EQUAL, "near": NEAR, "warnings": "warnings"}
WHOLE = dict.fromkeys(("classes", *LISTS), MOST_NAMED)  # as far as people read


@dataclass(frozen=True)
class ClassCount:
    """How many pictures of a class there are, and how many of them in each split."""

    label: str
    n: int
    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Pair:
    """Two pictures that are alike. distance: None of pixel-equal ones."""

    paths: tuple[str, str]
    labels: tuple[str, str]
    parts: tuple[str, str]
    distance: float | None

    def __str__(self) -> str:
        ends = zip(self.paths, self.parts, self.labels, strict=True)
        texts = (f"{path} ({part}, {label})" for path, part, label in ends)
        return (" = " if self.distance is None else " ~ ").join(texts)


@dataclass(frozen=True)
class Report:
    """What a data set consists of, and what is to be said of it.

    published: whether its splits are the source's own. widths, heights: least, median and greatest,
    in pixels. modes: pictures by Pillow's mode. n_copies: pictures that are pixel-equal to one
    before, wherever. leaks: those of another split or label. near: near-duplicates of two splits or
    labels. n_gone: listed pictures that are not there any more.
    """

    source: str
    published: bool
    classes: tuple[ClassCount, ...]
    widths: tuple[float, ...]
    heights: tuple[float, ...]
    modes: dict[str, int]
    left_out: tuple[LeftOut, ...]
    n_copies: int
    leaks: tuple[Pair, ...]
    leaks_allowed: bool
    near: tuple[Pair, ...]
    n_gone: int
    warnings: tuple[str, ...] = ()

    def refuse_leaks(self) -> None:
        """Raise CheckFailedError for pixel-equal pictures in two splits or of two labels."""
        if self.leaks and not self.leaks_allowed:
            raise CheckFailedError(
                f"pairs of pictures that are {EQUAL}: {len(self.leaks):,}",
                expected="none: one of two labels is wrong, and a score on pictures that were "
                "trained on proves nothing",
                next_step="remove one of each pair, or take them as they are with --allow-leaks",
                details=tuple(first(self.leaks)),
            )

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON; of each list how many there are, and `MAX_LISTED` of them."""
        lists = {name: getattr(self, name) for name in LISTS}
        cut: dict[str, Any] = {name: values[:MAX_LISTED] for name, values in lists.items()}
        document = asdict(replace(self, **cut))
        counted = {name: {"n": len(lists[name]), "listed": document[name]} for name in LISTS}
        return document | counted

    def lines(self, n_shown: Mapping[str, int] = WHOLE) -> list[str]:
        """Return it for people, of classes and of each list so many."""
        n_classes = n_shown["classes"]
        counts = [[one.label, *(getattr(one, part) for part in PARTS)] for one in self.classes]
        totals = [sum(column) for column in list(zip(*counts, strict=True))[1:]]
        parts = ", ".join(f"{n:,} {part}" for n, part in zip(totals, PARTS, strict=True))
        modes = ", ".join(f"{mode} ({n:,})" for mode, n in self.modes.items())
        rows = tuple((label, *(f"{n:,}" for n in row)) for label, *row in counts[:n_classes])
        lines = [
            f"{sum(totals):,} pictures of {len(counts):,} classes: {parts} "
            f"({'as published' if self.published else 'by digest'})"
            f"{f'; pixel-equal to another: {self.n_copies:,}' * bool(self.n_copies)}",
            f"{_of_sides('width', self.widths)}, {_of_sides('height', self.heights)}; {modes}",
            "",
            *to_text(Table("classes", "Classes", ("class", *PARTS), rows)),
            *first(counts, n_classes)[n_classes:],
        ]
        for name, heading in LISTS.items():
            if values := getattr(self, name):
                n = n_shown[name]
                of_them = f", the first {n}" * (0 < n < len(values))
                lines.append(f"{heading} ({len(values):,}{of_them}){':' * (n > 0)}")
                lines += [f"  {one}" for one in values[:n]]
        return lines


def _of_sides(what: str, sides: tuple[float, ...]) -> str:
    low, median, high = (f"{side:,g}" for side in sides)
    return f"{what} {low}" if low == high else f"{what}s {low} to {high} (median {median})"


def check(
    source: str,
    pictures: Pictures,
    *,
    parts: Array,
    alike: Duplicates,
    n_gone: int = 0,
    allow_leaks: bool = False,
) -> Report:
    """Return what is to be said of `pictures`. parts: (N,) of `split`; `UNUSED` ones are left out.

    Raises:
        InputError: a class has too few pictures that can be read, or none to train with.
    """
    scan, rows = pictures.scan, pictures.rows
    names, labels = names_within(source, scan.entries), [one.label for one in scan.entries]
    where = [PARTS[part] for part in parts.tolist()]  # of what is used
    unused = np.flatnonzero(parts == UNUSED).tolist()
    used = sorted(set(range(len(names))).difference(unused))
    counts = Counter((labels[at], where[at]) for at in used)
    split = {label: [counts[label, part] for part in PARTS] for label in scan.class_labels}
    classes = tuple(ClassCount(label, sum(row), *row) for label, row in split.items())
    reasons = (LeftOut(names[at], str(rows["error"][at]) or TORN) for at in unused)
    left_out = (*reasons, *scan.left_out)
    trained = {one.label for one in classes if one.train}
    require_classes(source, {one.label: one.n for one in classes}, trained, left_out)

    pairs = list(alike.pairs(parts != UNUSED))
    crossing = [
        Pair((names[a], names[b]), (labels[a], labels[b]), (where[a], where[b]), distance)
        for a, b, distance in pairs
        if (labels[a], where[a]) != (labels[b], where[b])
    ]
    report = Report(
        source=source,
        published=scan.published,
        classes=classes,
        widths=_spread(rows["width"][used]),
        heights=_spread(rows["height"][used]),
        modes=dict(Counter(rows["mode"][used].tolist()).most_common()),
        left_out=left_out,
        n_copies=sum(distance is None for *_, distance in pairs),
        leaks=tuple(pair for pair in crossing if pair.distance is None),
        leaks_allowed=allow_leaks,
        near=tuple(pair for pair in crossing if pair.distance is not None),
        n_gone=n_gone,
    )
    folders = {(labels[at], where[at], names[at].rpartition(os.sep)[0]) for at in used}
    return replace(report, warnings=tuple(_warnings(report, folders)))


def _spread(sizes: Array) -> tuple[float, ...]:
    return tuple(np.percentile(sizes, (0, 50, 100)).tolist())


def _warnings(report: Report, folders: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """Yield what a person can act on. folders: those of each class and split."""
    classes = sorted(report.classes, key=lambda one: one.n)
    for part in PARTS[1:]:
        none = [one.label for one in classes if not getattr(one, part)]
        if none and (part == "test" or len(none) < len(classes)):  # else there is no such part
            yield f"no {part} picture, so scores 'not measured', of {some(none)}: add some"
    few = [f"{one.label} ({one.test})" for one in classes if 0 < one.test < MIN_TEST_PICTURES]
    if few:
        yield f"under {MIN_TEST_PICTURES} test pictures, so rough scores, of {some(few)}: add some"
    least, most = classes[0], classes[-1]
    if most.n > MAX_IMBALANCE * least.n:
        yield (
            f"{most.label} has {most.n:,} pictures, {least.label} {least.n:,}: more than "
            f"{MAX_IMBALANCE} times as many; add some, or weigh the classes with --class-weights"
        )
    n_folders = Counter((label, part) for label, part, _ in folders)
    several = {label for (label, _), n in n_folders.items() if n > 1}
    if several and (single := [one.label for one in classes if one.label not in several]):
        yield (
            f"from one folder each, while other classes have several: {some(single)}; if a folder "
            "is a place or a day, that may be what is learned: mix them"
        )
    for values, what in ((report.leaks, EQUAL), (report.near, NEAR)):
        if values:
            yield f"pairs of pictures that are {what}: {len(values):,}; look at them"
    if report.n_gone:
        yield f"pictures of the list that are not there any more: {report.n_gone:,}"
