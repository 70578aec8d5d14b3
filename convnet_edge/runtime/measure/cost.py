"""Say what a model costs to run, and how fast this machine could be: the bound for its times.

The peak is measured with the very provider and thread count that are then timed, on a product of
two large matrices that this module writes as an ONNX file of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import model_file as onnxfile
from ..classifier import Classifier
from ..contract import Contract
from ..errors import InputError
from ..session import MatrixProduct

Array = np.ndarray[Any, np.dtype[Any]]

SIDE = 768
N_ROUNDS = 5
FLOAT, UINT8, INT8, INT32 = 1, 2, 3, 6  # TensorProto.DataType


@dataclass(frozen=True)
class Cost:
    """What one image takes, and what is the least time for it here.

    n_multiplications: in convolutions and linear layers; None if the file does not say.
    weight_bytes: read in every run. peak_multiplications_per_s: of a matrix product here, of
    numbers like the model's (`peak_of`); None if this provider cannot run one.
    """

    n_multiplications: int | None
    weight_bytes: int
    peak_multiplications_per_s: float | None
    peak_of: str

    @property
    def bound_ms(self) -> float | None:
        """The time of one image if all its multiplications ran at the peak."""
        if self.n_multiplications is None or self.peak_multiplications_per_s is None:
            return None
        return 1e3 * self.n_multiplications / self.peak_multiplications_per_s


def estimate(classifier: Classifier) -> Cost:
    """Return the cost of the opened model; takes about half a second on two cores."""
    file = onnxfile.parse(classifier.model)
    integers = classifier.contract.quantization is not None
    try:
        peak = measure_peak(classifier, integers=integers)
    except InputError:  # the provider lacks that operation, which says nothing about the model
        peak = None
    return Cost(
        n_multiplications=multiplications(file, classifier.contract),
        weight_bytes=sum(len(weight.content) for weight in file.weights),
        peak_multiplications_per_s=peak,
        peak_of="int8 matrix product" if integers else "float32 matrix product",
    )


def multiplications(file: onnxfile.OnnxFile, contract: Contract) -> int | None:
    """Return the multiplications of one image in convolutions and linear layers; None if unknown.

    An integer file's are those of the float one it was made from, and stand in its contract.
    """
    if contract.quantization is None:
        return file.n_multiplications
    stated = contract.quantization.get("n_multiplications")
    return int(stated) if stated is not None else None


def parameters(file: onnxfile.OnnxFile, contract: Contract) -> int:
    """Return the weights of the network; an integer file's are those of the float one."""
    if contract.quantization is None:
        return file.n_parameters
    return int(contract.document["parameters"]["n"])


def measure_peak(classifier: Classifier, *, integers: bool) -> float:
    """Return multiplications a second of a matrix product on the classifier's own provider.

    Raises:
        InputError: the provider cannot run it.
    """
    product = MatrixProduct(product_model(integers=integers), classifier.session)
    rows = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE))
    product.load(rows.astype(np.uint8) if integers else (rows / 255).astype(np.float32))
    shortest = float("inf")
    for _ in range(N_ROUNDS):
        started = time.perf_counter_ns()
        product.run()
        shortest = min(shortest, (time.perf_counter_ns() - started) / 1e9)
    return SIDE**3 / shortest


def product_model(*, integers: bool) -> bytes:
    """Return an ONNX file that multiplies x (SIDE, SIDE) by a constant matrix of that size."""
    values = np.random.default_rng(1).integers(-63, 64, (SIDE, SIDE)).astype(np.int8)
    weights = values if integers else values.astype(np.float32) / np.float32(64)
    taken, held, given = (UINT8, INT8, INT32) if integers else (FLOAT, FLOAT, FLOAT)
    field, number = onnxfile.length_field, onnxfile.number_field
    op_type = "MatMulInteger" if integers else "MatMul"
    node = field(1, b"x") + field(1, b"w") + field(2, b"y") + field(4, op_type.encode())
    tensor = number(1, SIDE) * 2 + number(2, held) + field(8, b"w") + field(9, weights.tobytes())
    graph = (
        field(1, node) + field(2, b"product") + field(5, tensor)
        + field(11, _value(b"x", taken)) + field(12, _value(b"y", given))
    )  # fmt: skip
    return number(1, 8) + field(8, field(1, b"") + number(2, 18)) + field(7, graph)


def _value(name: bytes, element_type: int) -> bytes:
    field, number = onnxfile.length_field, onnxfile.number_field
    shape = field(1, number(1, SIDE)) * 2
    return field(1, name) + field(2, field(1, number(1, element_type) + field(2, shape)))
