"""Prove a model file on this machine and provider; or against a checkpoint, or another model.

Needs only numpy and onnxruntime unless a checkpoint is named.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..data import dataset
from ..runtime import selftest
from ..runtime.classifier import Classifier
from ..runtime.contract import Array, Contract
from ..runtime.errors import some
from ..runtime.files import as_json, brief, require_writable, write_json
from ..runtime.measure import machine
from ..runtime.measure.check import Check
from ..runtime.model_file import ModelFile, open_model
from ..runtime.options import require
from ..runtime.session import Settings
from ..sealing import parity
from ..sealing.default_model import EXPORTED_DIR, choose_model, shipped_model
from ..sealing.parity import Comparison, Proof, Reference
from . import skew
from .options import SOURCE_CHANGED, NetworkOptions, VerifyOptions

LONG_S = 10.0
PATIENCE = 10  # times the estimate, after which runs are ended

Say = Callable[[str], None]


@dataclass(frozen=True)
class Against:
    """What the file was compared with.

    verdict: "bit-equal", "within tolerance" or "different", of another model's logits. where: the
    parts of the files that are not the same, in words; empty for equal graphs.
    """

    path: str
    model_sha256: str | None = None
    verdict: str | None = None
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifyReport:
    """What was proved here, as `NAME.verify.json` holds it.

    passed: whether every check that could run here held. comparison: on all test images, None
    unless something to compare with was named. skew: what mistakes cost, if that was asked.
    """

    passed: bool
    model: str
    model_sha256: str
    provider: str
    precision: str
    against: Against | None
    comparison: Comparison | None
    skew: tuple[skew.Skew, ...]
    checks: tuple[Check, ...]
    schema: str = "convnet-edge/verify/2"
    machine: dict[str, Any] = field(default_factory=machine.passport)

    __repr__ = brief


@dataclass(frozen=True)
class VerifyResult:
    """The report, where it and its model are, and what that states of itself.

    differs_alone: whether every check holds but those against something else.
    """

    model_path: Path
    report_path: Path
    report: VerifyReport
    contract: Contract
    differs_alone: bool

    __repr__ = brief

    @property
    def title(self) -> str:
        """The model's name, and behind it what it lacks of a proof."""
        proof = self.contract.proof  # None of a file proved against float64 PyTorch
        return f"{self.model_path.name} ({proof})" if proof else self.model_path.name


def verify(
    options: VerifyOptions, step: Say = lambda _: None, note: Say = lambda _: None
) -> VerifyResult:
    """Run every check, write the report, and return both; `passed` is the caller's to act on.

    step hears what is being done, note what matters beside it. The report goes beside the model;
    that of the model which comes with the program into the current folder's `exported`.

    Example: `ce.verify(ce.VerifyOptions("exported/convnet.onnx")).report.passed`

    Raises:
        InputError: the model, the provider or the checkpoint cannot be opened.
    """
    path = choose_model(options.model)
    beside = EXPORTED_DIR if path == shipped_model() else path.parent
    report_path = options.out or beside / f"{path.stem}.verify.json"
    require_writable(report_path)
    file = open_model(path)
    checks: tuple[Check, ...] = (file.digest,)
    against = comparison = None
    own_hold = False
    costs: tuple[skew.Skew, ...] = ()
    if file.digest.passed:  # an altered file is not opened
        step(f"opening the model on {options.provider}")
        settings = Settings(options.provider, ceiling=options.ceiling)
        classifier = Classifier(file, settings=settings, isolate=True)
        step("replaying the golden vectors")
        checks = selftest.run_selftest(classifier)
        if options.skew or options.against is not None:
            test = dataset.require_test_set(dataset.Task.of(classifier.contract), options)
        if options.skew:
            step("making the usual mistakes on purpose")
            if not test.paths:
                note("mistakes in reading files are left out: name the pictures with --data")
            costs = tuple(skew.measure(classifier, test))
        if options.against is not None:
            step(f"comparing with {options.against}")
            compare = compare_model
            if options.against.suffix == ".safetensors":
                compare = partial(compare_network, options)
            own_hold = all(check.passed or check.skipped for check in checks)
            proof, against = compare(classifier, options.against, test.images, note)
            checks, comparison = checks + proof.checks, proof.comparison
    passed = all(check.passed or check.skipped for check in checks)
    report = VerifyReport(
        passed=passed,
        model=path.name,
        model_sha256=file.sha256,
        provider=options.provider,
        precision="int8" if file.contract.quantization else "float32",
        against=against,
        comparison=comparison,
        skew=costs,
        checks=checks,
    )
    write_json(report_path, as_json(report))
    return VerifyResult(path, report_path, report, file.contract, own_hold and not passed)


def compare_network(
    options: NetworkOptions,
    mine: Classifier,
    path: Path,
    images: Array,
    note: Say = lambda _: None,
) -> tuple[Proof, Against]:
    """Compare a model with the checkpoint at `path`, in float64, on uint8 `images`.

    Of a network that takes longer than `reference_s`, on a seeded sample of them.
    """
    from ..networks import checkpoint  # torch: only this path needs it
    from . import reference

    model, stored = checkpoint.load_model(
        path, arch=options.arch, allow_changed_source=options.allow_changed_source
    )
    if stored.source_changed:
        note(SOURCE_CHANGED)
    channels, *size = stored.header["model"]["image_shape"]
    shape = (*size, *([channels] if channels > 1 else ()))
    _require_alike(path, len(stored.header["class_labels"]), shape, mine)
    known = reference.compute(model, images, limit_s=options.reference_s)
    if known.n_all:
        note(f"comparing {len(known.images):,} of the {known.n_all:,} images, a seeded sample")
    with _in_time(mine, len(known.images), note):
        return parity.compare_all(mine, known), Against(str(path))


def compare_model(
    mine: Classifier, path: Path, images: Array, note: Say = lambda _: None
) -> tuple[Proof, Against]:
    """Compare a model with that at `path` on uint8 `images`, by its own tolerance."""
    other = Classifier(path, settings=mine.session.settings)
    stated = other.contract
    _require_alike(path, len(stated.class_labels), stated.image_shape, mine)
    with _in_time(mine, len(images), note):
        logits = mine.logits(images)
    with _in_time(other, len(images), note):
        known = other.logits(images)
    floor = mine.tolerance / parity.TOLERANCE_FACTOR
    reference = Reference(images, known.astype(np.float64), floor)
    found = parity.compare(logits, reference)
    verdict = "different"
    if logits.tobytes() == known.tobytes():
        verdict = "bit-equal"
    elif all(check.passed for check in parity.check_parity(found, reference)):
        verdict = "within tolerance"
    detail = (
        f"{verdict}: {len(images):,} images, max {found.max_error:.2g}, tolerance "
        f"{mine.tolerance:.2g}, {len(found.flips)} labels differ"
    )
    if verdict == "different":
        errors = selftest.errors_of(logits, reference.logits).max(axis=1)
        detail += f"; most in images {np.argsort(-errors, kind='stable')[:3].tolist()}"
    name, where = "logits against the other model", tuple(_differing_parts(mine.file, other.file))
    check = Check(name, verdict != "different", detail, found.max_error, mine.tolerance)
    return Proof((check,), logits, found), Against(str(path), other.file.sha256, verdict, where)


@contextmanager
def _in_time(classifier: Classifier, n_images: int, note: Say) -> Iterator[None]:
    """Estimate from the golden images how long `n_images` take; end the runs if they never end."""
    goldens, started = classifier.contract.goldens.images, time.perf_counter()
    classifier.logits(goldens)
    expected_s = n_images * (time.perf_counter() - started) / len(goldens)
    if expected_s > LONG_S:
        note(f"running {n_images:,} images takes about {expected_s:.0f} s here")
    with classifier.session.limit(PATIENCE * max(expected_s, 1.0)):
        yield


def _require_alike(path: Path, n_classes: int, shape: tuple[int, ...], mine: Classifier) -> None:
    stated = mine.contract
    sizes = (shape, n_classes), (stated.image_shape, len(stated.class_labels))
    found, expected = (f"images of {sides} in {n} classes" for sides, n in sizes)
    require(found == expected, f"{path} is for {found}", f"the model's {expected}", "--against")


def _differing_parts(mine: ModelFile, other: ModelFile) -> Iterator[str]:
    operations = [[node.op_type for node in file.nodes] for file in (mine, other)]
    if operations[0] != operations[1]:
        pairs = enumerate(zip_longest(*operations, fillvalue="none"), 1)
        number, (one, two) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
        yield (
            f"{len(operations[0])} operations, not {len(operations[1])}; the first that differs is "
            f"number {number}: {one}, not {two}"
        )
    if (mine.opsets, mine.ir_version) != (other.opsets, other.ir_version):
        formats = [f"{file.opsets}, IR {file.ir_version}" for file in (mine, other)]
        yield f"opsets {formats[0]}, not {formats[1]}"
    here, there = mine.weights, other.weights
    changed = {name for name in here.keys() & there if here[name].content != there[name].content}
    alone = here.keys() ^ there
    for what, names in (("that differ", changed), ("in one of them alone", alone)):
        if names:
            yield f"weights {what}: {len(names)} ({some(sorted(names))})"
