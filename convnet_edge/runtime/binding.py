"""Run through buffers that stay on the device, so that copies can be left out or timed apart.

Only where the buffers are differs between a CPU and a GPU; the calls are the same.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from .session import onnxruntime_errors, run_failed

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Split:
    """Where one run's nanoseconds went: host to device, compute, device to host."""

    host_to_device_ns: int
    compute_ns: int
    device_to_host_ns: int


class Bound:
    """Runs at one batch size through an input and an output buffer; not for several threads.

    session: onnxruntime's. names: of input and output. batch: an example, (N, 1, H, W).
    shape: of the logits, (N, C). device: "cpu" or "cuda".
    """

    def __init__(
        self,
        session: Any,
        names: tuple[str, str],
        batch: Array,
        shape: tuple[int, int],
        *,
        device: str,
    ) -> None:
        import onnxruntime

        value = onnxruntime.OrtValue
        self._session = session
        # not ortvalue_from_numpy: on a CPU that shares the caller's memory and overwrites it
        self._input = value.ortvalue_from_shape_and_type(batch.shape, batch.dtype, device, 0)
        self._output = value.ortvalue_from_shape_and_type(shape, np.float32, device, 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(names[0], self._input)
        self._binding.bind_ortvalue_output(names[1], self._output)
        self._shape = batch.shape

    def run(self, batch: Array) -> Array:
        """Return the logits (N, C) float32 of `batch`, copied in, run and copied out.

        Raises:
            InputError: onnxruntime refuses the batch or fails while running it.
        """
        return self.run_split(batch)[0]

    def run_split(self, batch: Array) -> tuple[Array, Split]:
        """Do as `run`, and return the time of each part.

        Raises:
            InputError: onnxruntime refuses the batch or fails while running it.
        """
        clock = time.perf_counter_ns
        started = clock()
        try:
            self._input.update_inplace(batch)
            self._binding.synchronize_inputs()
            copied = clock()
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            computed = clock()
            logits: Array = self._output.numpy()
        except onnxruntime_errors() as error:
            raise run_failed(self._shape, error) from error
        return logits.copy(), Split(copied - started, computed - copied, clock() - computed)
