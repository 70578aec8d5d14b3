"""Write the document of the contract: what an exported file says of itself.

Each function gives some of its keys. Where the numbers come from is the stages' business; putting
the document into the file and reading it is the runtime's (`runtime.contract`).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

import numpy as np

from .. import __version__
from ..runtime import contract, preprocess, selftest
from ..runtime.measure import accuracy
from ..runtime.measure.accuracy import ImageSet
from . import goldens
from .parity import Reference

Array = np.ndarray[Any, np.dtype[Any]]
InputDtype = Literal["float32", "uint8"]

RANGES: dict[InputDtype, dict[str, Any]] = {
    "float32": {"range": [0.0, 1.0], "scale": "uint8 grey value / 255"},
    "uint8": {"range": [0, 255], "scale": "the uint8 grey value; the graph scales it"},
}


def describe_input(dtype: InputDtype, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return what the graph takes: `images` of `image_shape` (C, H, W)."""
    return {
        "input": {
            "name": "images",
            "dtype": dtype,
            "shape": list(image_shape),
            "layout": "NCHW, batch axis free",
            **RANGES[dtype],
        }
    }


def describe_use(images: Array) -> dict[str, Any]:
    """Return what comes before the graph and after it, with pictures made of some `images`."""
    samples = [
        {
            "name": sample.name,
            "encoded": contract.encode_bytes(sample.encoded),
            "pixels": contract.encode_pixels(sample.pixels),
        }
        for sample in goldens.make_pictures(images)
    ]
    return {
        "output": {"name": "logits", "dtype": "float32", "meaning": "raw, before softmax"},
        "preprocessing": {
            "steps": list(preprocess.STEPS),
            "pixel_tolerance": selftest.PIXEL_TOLERANCE,
            "samples": samples,
        },
    }


def describe_proof(
    what: str, reference: Reference, test: ImageSet, chosen: Array, class_labels: Sequence[str]
) -> dict[str, Any]:
    """Return how many test images `what` classified right, and the golden vectors.

    reference: its logits of the test images. chosen: (K,) the golden images, by index.
    """
    score = accuracy.score(reference.logits.argmax(axis=1), test.labels, tuple(class_labels))
    return {
        "measured": {
            "what": f"{what} on the test images",
            **accuracy.describe(score, test),
        },
        "goldens": {
            "indices": chosen.tolist(),
            "images": contract.encode_pixels(test.images[chosen]),
            "logits": reference.logits[chosen].round(goldens.REFERENCE_DECIMALS).tolist(),
            "floor": reference.floor,
            "tolerance": reference.tolerance,
        },
    }


def versions(*modules: ModuleType) -> dict[str, str]:
    """Return the versions of this program and of what it used."""
    return {"convnet-edge": __version__} | {m.__name__: m.__version__ for m in modules}
