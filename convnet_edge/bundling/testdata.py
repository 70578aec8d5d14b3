"""Write a model with its golden vectors as ONNX's own test layout, which other runners read.

The layout is that of ONNX's backend tests: `model.onnx`, `data.json` with the tolerance, and
`test_data_set_0/input_0.pb` and `output_0.pb`
(https://github.com/onnx/onnx/blob/main/docs/OnnxBackendTest.md and onnx/backend/test/loader).
Running the model is the runner's business.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.files import write_atomically
from ..runtime.protobuf import length_field, number_field
from .options import BundleOptions
from .prove import prove

Array = np.ndarray[Any, np.dtype[Any]]

_ELEMENT_TYPES = {"float32": 1, "uint8": 2}  # TensorProto.DataType
_DIMS, _ELEMENT_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9  # fields of TensorProto


def lay_out(options: BundleOptions) -> tuple[Path, ...]:
    """Write a model and its golden vectors into a folder; return the files' paths.

    input_0.pb: the golden images as the model takes them, (K, 1, H, W); output_0.pb: their
    reference logits, (K, C) float32; data.json: the contract's tolerance, which ONNX's loader
    takes instead of its own. The same model gives the same bytes.

    Raises:
        InputError: the model is unreadable or altered, or the folder cannot be written.
        CheckFailedError: the model does not pass its self-test here.
    """
    (model,) = prove(options.models)
    contract = model.classifier.contract
    goldens = contract.goldens
    out = options.out or Path(f"{Path(model.name).stem}-testdata")
    images, logits = model.classifier.to_input(goldens.images), goldens.logits.astype(np.float32)
    tolerance = {"atol": goldens.tolerance, "rtol": 0.0}
    contents = {
        out / "model.onnx": model.classifier.file.data,
        out / "data.json": json.dumps(tolerance).encode(),
        out / "test_data_set_0" / "input_0.pb": encode_tensor(contract.input_name, images),
        out / "test_data_set_0" / "output_0.pb": encode_tensor(contract.output_name, logits),
    }
    for path, content in contents.items():
        write_atomically(path, content)
    return tuple(contents)


def encode_tensor(name: str, values: Array) -> bytes:
    """Return `values`, float32 or uint8 of any shape, as a serialised TensorProto."""
    little_endian = values.astype(values.dtype.newbyteorder("<"))
    return b"".join(
        (
            *(number_field(_DIMS, size) for size in values.shape),
            number_field(_ELEMENT_TYPE, _ELEMENT_TYPES[values.dtype.name]),
            length_field(_NAME, name.encode()),
            length_field(_RAW_DATA, little_endian.tobytes()),
        )
    )
