"""Write a model with its golden vectors as ONNX's own test layout, which other runners read.

The layout is that of ONNX's backend tests: `model.onnx`, `data.json` with the tolerance, which
ONNX's loader takes instead of its own, and `test_data_set_0/input_0.pb` and `output_0.pb`
(https://github.com/onnx/onnx/blob/main/docs/OnnxBackendTest.md and onnx/backend/test/loader).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.classifier import Classifier
from ..runtime.files import write_atomically
from ..runtime.protobuf import field

Array = np.ndarray[Any, np.dtype[Any]]

_ELEMENT_TYPES = {"float32": 1, "uint8": 2}  # TensorProto.DataType
_DIMS, _ELEMENT_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9  # fields of TensorProto


def write(out: Path, model: Classifier) -> dict[str, Any]:
    """Write the model's file and golden vectors into the folder `out`; return what was written.

    input_0.pb: the golden images as the model takes them, (K, 1, H, W); output_0.pb: their
    reference logits, (K, C) float32.
    """
    contract, goldens = model.contract, model.contract.goldens
    images, logits = model.to_input(goldens.images), goldens.logits.astype(np.float32)
    contents = {
        "model.onnx": model.file.data,
        "data.json": json.dumps({"atol": goldens.tolerance, "rtol": 0.0}).encode(),
        "test_data_set_0/input_0.pb": _encode_tensor(contract.input_name, images),
        "test_data_set_0/output_0.pb": _encode_tensor(contract.output_name, logits),
    }
    for name, content in contents.items():
        write_atomically(out / name, content)
    return {"files": [str(out / name) for name in contents]}


def _encode_tensor(name: str, values: Array) -> bytes:
    """Return `values`, float32 or uint8 of any shape, as a serialised TensorProto."""
    little_endian = values.astype(values.dtype.newbyteorder("<"))
    fields = (
        *(field(_DIMS, size) for size in values.shape),
        field(_ELEMENT_TYPE, _ELEMENT_TYPES[values.dtype.name]),
        field(_NAME, name.encode()),
        field(_RAW_DATA, little_endian.tobytes()),
    )
    return b"".join(fields)
