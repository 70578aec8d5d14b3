"""Write every epoch's numbers for TensorBoard, if that is asked for."""

import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..runtime.errors import MissingPackageError
from ..runtime.files import as_json
from .launch import read_launch
from .options import TrainOptions
from .run import EpochMetrics


@contextmanager
def opened(options: TrainOptions) -> Iterator[Callable[[EpochMetrics], None]]:
    """Give the function that writes one epoch into NAME.tensorboard, a folder for each start.

    A resumed run is to write its earlier epochs again, so that each folder holds a whole run.

    Raises:
        MissingPackageError: tensorboard is asked for and not installed.
    """
    if not options.tensorboard or read_launch().rank != 0:
        yield lambda _: None
        return
    started = time.strftime("%Y-%m-%d %H.%M.%S")
    try:
        board = importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise MissingPackageError(
            "tensorboard is not installed",
            expected="tensorboard, to write what it shows",
            next_step="pip install tensorboard, or leave --tensorboard out",
        ) from error
    with board.SummaryWriter(options.out.with_suffix(".tensorboard") / started) as writer:

        def write(metrics: EpochMetrics) -> None:
            for name, value in as_json(metrics).items():
                if name != "epoch" and value is not None:
                    writer.add_scalar(name, value, metrics.epoch)
            writer.flush()

        yield write
