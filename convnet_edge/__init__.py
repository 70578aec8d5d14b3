"""Take an image classifier from PyTorch to an edge device, with proof at every step.

    import convnet_edge as ce
    ce.train(ce.TrainOptions(data="sample", epochs=3))

The functions and options of the commands, each imported when it is first asked for: importing this
package imports neither torch nor numpy. On a device, `convnet_edge.runtime` is all there is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# where each name lives
_HOMES = {
    "train": "training.loop",
    "TrainOptions": "training.options",
    "export": "exporting.export",
    "ExportOptions": "exporting.options",
    "verify": "exporting.verify",
    "VerifyOptions": "exporting.options",
    "quantize": "quantizing.quantize",
    "QuantizeOptions": "quantizing.options",
    "inspect": "commands.inspect",
    "InspectOptions": "commands.inspect",
    "bench": "commands.bench",
    "BenchOptions": "runtime.measure.options",
    "compare": "reporting.compare",
    "CompareOptions": "reporting.options",
    "report": "reporting.report",
    "ReportOptions": "reporting.options",
    "bundle": "bundling.bundle",
    "BundleOptions": "bundling.options",
    "predict": "predicting.predict",
    "PredictOptions": "predicting.options",
    "Classifier": "runtime.classifier",
}

if TYPE_CHECKING:  # the same for static checkers
    from .bundling.bundle import bundle as bundle
    from .bundling.options import BundleOptions as BundleOptions
    from .commands.bench import bench as bench
    from .commands.inspect import InspectOptions as InspectOptions
    from .commands.inspect import inspect as inspect
    from .exporting.export import export as export
    from .exporting.options import ExportOptions as ExportOptions
    from .exporting.options import VerifyOptions as VerifyOptions
    from .exporting.verify import verify as verify
    from .predicting.options import PredictOptions as PredictOptions
    from .predicting.predict import predict as predict
    from .quantizing.options import QuantizeOptions as QuantizeOptions
    from .quantizing.quantize import quantize as quantize
    from .reporting.compare import compare as compare
    from .reporting.options import CompareOptions as CompareOptions
    from .reporting.options import ReportOptions as ReportOptions
    from .reporting.report import report as report
    from .runtime.classifier import Classifier as Classifier
    from .runtime.measure.options import BenchOptions as BenchOptions
    from .training.loop import train as train
    from .training.options import TrainOptions as TrainOptions

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
