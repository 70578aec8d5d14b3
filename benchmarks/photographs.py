"""Measure the reference model on drawn photographs: `python benchmarks/photographs.py`.

Test garments, dark on backgrounds of several kinds, must be named; landscapes, noise and the like
must be "not sure". Both numbers of the decision come from training images and from pictures drawn
of them with another seed; the test side is only measured. Writes
results/reference/photographs.json, with every picture's probability and unevenness.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scenes import BACKGROUNDS, NEGATIVES, photograph

from convnet_edge.data import fashion_mnist
from convnet_edge.runtime.classifier import Classifier, Predictions
from convnet_edge.runtime.contract import Array
from convnet_edge.runtime.files import write_json
from convnet_edge.runtime.measure.accuracy import ImageSet
from convnet_edge.runtime.pictures.preprocess import FASHION_MNIST, decode_picture

RESULT_PATH = Path(__file__).resolve().parent / "results" / "reference" / "photographs.json"
KEPT = replace(FASHION_MNIST, background="keep")
COLUMNS = {
    "n_right_kept": "right, kept",
    "n_right": "removed",
    "n_not_sure_by_probability": "unlikely",
    "n_not_sure_by_unevenness": "uneven",
    "n_not_sure": "not sure",
}
COVERAGE = 0.98  # of the training images: those that the threshold leaves sure


def prepare(picture: Image.Image) -> tuple[Array, Array, float]:
    """Return the pixels as they were without removal, those with it, and the unevenness."""
    kept, removed = (decode_picture(picture, how) for how in (KEPT, FASHION_MNIST))
    return kept.pixels, removed.pixels, removed.unevenness or 0.0


def take(kind: str, seed: int, images: Array) -> tuple[Array, Array, Array]:
    """Draw and prepare a picture of a kind for each of `images`, of the garment if it shows one."""
    rng = np.random.default_rng([seed, *kind.encode()])
    drawn = [prepare(photograph(kind, rng, image)) for image in images]
    kept, removed, unevenness = zip(*drawn, strict=True)
    return np.array(kept), np.array(removed), np.array(unevenness)


def take_all(kinds: list[str], seed: int, images: Array) -> dict[str, Any]:
    """Take pictures of several kinds, in as many processes as there are cores."""
    n = len(kinds)
    with ProcessPoolExecutor() as pool:
        return dict(zip(kinds, pool.map(take, kinds, [seed] * n, [images] * n), strict=True))


def decide(classifier: Classifier, training: ImageSet, n: int) -> dict[str, Any]:
    """Choose the decision's two numbers, by training images alone."""
    likeliest = classifier(training.images).probabilities.max(1).astype(float)
    threshold = float(np.floor(np.quantile(likeliest, 1 - COVERAGE) * 1000) / 1000)
    chosen = np.random.default_rng(1).permutation(len(training.labels))[:n]
    taken = take_all([*BACKGROUNDS, "landscapes", "noise"], 1, training.images[chosen])
    garments = np.concatenate([taken[kind][2] for kind in BACKGROUNDS])
    others = np.concatenate([taken[kind][2] for kind in ("landscapes", "noise")])
    highest, lowest = float(np.quantile(garments, 0.99)), float(np.quantile(others, 0.01))
    return {
        "threshold": threshold,
        "max_unevenness": round((highest + lowest) / 2, 2),
        "data": f"Fashion-MNIST's training images; unevenness halfway between what 99 % of "
        f"{len(garments)} garments drawn of them stay below ({highest:.3f}) and 99 % of "
        f"{len(others)} landscapes and noise above ({lowest:.3f})",
        "n": len(likeliest),
        "coverage": float((likeliest >= threshold).mean()),
    }


def count(found: Predictions, unevenness: Array, decision: dict[str, Any]) -> dict[str, Any]:
    """Count the pictures that are "not sure", by each of the decision's numbers and by either."""
    likeliest = found.probabilities.max(1)
    unlikely = likeliest < decision["threshold"]
    uneven = unevenness > decision["max_unevenness"]
    return {
        "n": len(unevenness),
        "n_not_sure_by_probability": int(unlikely.sum()),
        "n_not_sure_by_unevenness": int(uneven.sum()),
        "n_not_sure": int((unlikely | uneven).sum()),
    }


def main() -> None:
    """Derive the decision, measure it and the accuracies on the test side, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--n", type=int, default=200, help="pictures of each kind")
    n = parser.parse_args().n
    classifier = Classifier("exported/fashion-mnist.onnx")
    training, test = (
        fashion_mnist.load_training_set("fashion-mnist", None),
        fashion_mnist.load_test_set(),
    )
    decision = decide(classifier, training, n // 2)
    print(*(f"{name}: {value}" for name, value in decision.items()), sep="\n")
    chosen = np.random.default_rng(2).permutation(len(test.labels))[:n]
    found = classifier(test.images)
    rows = {"test images": count(found, np.zeros(len(test.labels)), decision)}
    rows["test images"]["n_right"] = int((found.labels == test.labels).sum())
    kinds = [*BACKGROUNDS, *NEGATIVES]
    for kind, (kept, removed, unevenness) in take_all(kinds, 2, test.images[chosen]).items():
        found = classifier(removed)
        rows[kind] = count(found, unevenness, decision)
        shares = zip(found.probabilities.max(1), unevenness, strict=True)
        rows[kind]["pictures"] = [
            f"{probability:.3f} {uneven:.3f}" for probability, uneven in shares
        ]
        if kind in BACKGROUNDS:
            rows[kind]["n_right"] = int((found.labels == test.labels[chosen]).sum())
            before = classifier(kept).labels
            rows[kind]["n_right_kept"] = int((before == test.labels[chosen]).sum())
    print(f"{'':22} {'n':>6}" + "".join(f"{title:>12}" for title in COLUMNS.values()))
    for kind, row in rows.items():
        shares = [f"{row[key] / row['n']:.1%}" if key in row else "" for key in COLUMNS]
        print(f"{kind:22} {row['n']:6}" + "".join(f"{share:>12}" for share in shares))
    write_json(
        RESULT_PATH,
        {
            "schema": "convnet-edge/photographs-benchmark/1",
            "command": f"python benchmarks/photographs.py --n {n}",
            "model_sha256": classifier.file.sha256,
            "decision": decision,
            "pictures": "likeliest class's probability, unevenness",
            "rows": rows,
            "versions": {
                package: version(package) for package in ("numpy", "onnxruntime", "pillow")
            },
        },
    )


if __name__ == "__main__":
    main()
