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

from ..runtime.admission import require_unaltered
from ..runtime.contract import Contract
from ..runtime.files import write_atomically
from ..runtime.model_file import open_model
from ..runtime.protobuf import length_field, number_field

Array = np.ndarray[Any, np.dtype[Any]]

MODEL_NAME = "model.onnx"
TOLERANCE_NAME = "data.json"
DATA_SET_NAME = "test_data_set_0"
_ELEMENT_TYPES = {"float32": 1, "uint8": 2}  # TensorProto.DataType
_DIMS, _ELEMENT_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9  # fields of TensorProto


def write_testdata(model: bytes, out: Path) -> tuple[Path, ...]:
    """Write `model` and its golden vectors into the folder `out`; return the files' paths.

    input_0.pb: the golden images as the model takes them, (K, 1, H, W); output_0.pb: their
    reference logits, (K, C) float32; data.json: the contract's tolerance, which ONNX's loader
    takes instead of its own. The same model gives the same bytes.

    Raises:
        InputError: the file was altered or has no contract, or `out` cannot be written.
    """
    file = open_model(model)
    require_unaltered(file)
    contract = file.contract
    folder = out / DATA_SET_NAME
    logits = contract.goldens.logits.astype(np.float32)
    tolerance = json.dumps({"atol": contract.goldens.tolerance, "rtol": 0.0})
    contents = {
        out / MODEL_NAME: model,
        out / TOLERANCE_NAME: tolerance.encode(),
        folder / "input_0.pb": encode_tensor(contract.input_name, _model_input(contract)),
        folder / "output_0.pb": encode_tensor(contract.output_name, logits),
    }
    for path, content in contents.items():
        write_atomically(path, content)
    return tuple(contents)


def encode_tensor(name: str, values: Array) -> bytes:
    """Return `values`, float32 or uint8 of any shape, as a serialised TensorProto."""
    element_type = _ELEMENT_TYPES[values.dtype.name]
    little_endian = values.astype(values.dtype.newbyteorder("<"))
    return b"".join(
        (
            *(number_field(_DIMS, size) for size in values.shape),
            number_field(_ELEMENT_TYPE, element_type),
            length_field(_NAME, name.encode()),
            length_field(_RAW_DATA, little_endian.tobytes()),
        )
    )


def _model_input(contract: Contract) -> Array:
    """Return the golden images (K, 1, H, W) in the type and range that the graph takes."""
    images = contract.goldens.images[:, None]
    if contract.input_dtype == "uint8":
        return images
    scaled: Array = images.astype(np.float32) / np.float32(255)
    return scaled
