"""Run models on the processor that this process has, with numpy and onnxruntime alone.

python emulated_worker.py IMAGES.npy OUT.npz MODEL...: the logits of the images and what the
self-test says of each model go into OUT.npz, what the processor is to the last line of stdout.
"""

import json
import sys
from pathlib import Path

import numpy as np
from copied_runtime import Classifier, selftest
from copied_runtime.files import as_json
from copied_runtime.measure import machine
from numpy._core._multiarray_umath import __cpu_features__


def main(images_path: str, out_path: str, *model_paths: str) -> None:
    """Write the logits (N, C) of every model; print versions, CPU features and failed checks."""
    images = np.load(images_path)  # (N, 28, 28) uint8
    logits, checks = {}, {}
    for path in map(Path, model_paths):
        classifier = Classifier(path, threads=1)
        logits[path.name] = classifier.logits(images)
        checks[path.name] = as_json(selftest.run_selftest(classifier))
    np.savez(out_path, **logits)
    features = sorted(name for name, found in __cpu_features__.items() if found)
    print(json.dumps({"versions": machine.versions(), "features": features, "checks": checks}))


if __name__ == "__main__":
    main(*sys.argv[1:])
