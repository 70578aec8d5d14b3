"""Take an image classifier from PyTorch to an edge device, with proof at every step.

    import convnet_edge as ce
    ce.train(ce.TrainOptions(data="sample", epochs=3))

The functions and options of the commands, each imported when it is first asked for: importing this
package imports neither torch nor numpy. On a device, `convnet_edge.runtime` is all there is.
"""

from __future__ import annotations

__version__ = "0.1.0"
TYPE_CHECKING = False  # typing's takes ten times as long to import as all of this

if TYPE_CHECKING:  # read by static checkers, and by __getattr__: each name stands once
    from typing import Any

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


def __getattr__(name: str) -> Any:
    """Import what is asked for, from where the lines above have it."""
    import ast  # a device, which asks for nothing here, does not wait for these
    import pkgutil
    from importlib import import_module

    source = pkgutil.get_data(__name__, "__init__.py") or b""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level and node.names[0].name == name:
            return getattr(import_module(f".{node.module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
