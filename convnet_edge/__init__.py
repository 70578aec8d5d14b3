"""Take an image classifier from PyTorch to an edge device, with proof at every step.

    import convnet_edge as ce
    ce.train(ce.TrainOptions(data="sample", epochs=3))

The functions, options, results and errors of the commands, each imported when it is first asked
for: importing this package imports neither torch nor numpy. On a device, `convnet_edge.runtime` is
all there is.
"""

from __future__ import annotations

__version__ = "0.1.0"
TYPE_CHECKING = False  # typing's takes ten times as long to import as all of this

if TYPE_CHECKING:  # read by static checkers, and by __getattr__: each name stands once
    from .bundling.bundle import Bundle as Bundle
    from .bundling.bundle import bundle as bundle
    from .bundling.options import BundleOptions as BundleOptions
    from .commands.bench import Benched as Benched
    from .commands.bench import BenchOptions as BenchOptions
    from .commands.bench import bench as bench
    from .commands.data import Examined as Examined
    from .commands.data import examine as examine
    from .commands.inspect import InspectOptions as InspectOptions
    from .commands.inspect import inspect as inspect
    from .data.options import ExamineOptions as ExamineOptions
    from .exporting.adopt import AdoptResult as AdoptResult
    from .exporting.adopt import adopt as adopt
    from .exporting.export import ExportResult as ExportResult
    from .exporting.export import export as export
    from .exporting.options import AdoptOptions as AdoptOptions
    from .exporting.options import ExportOptions as ExportOptions
    from .exporting.options import VerifyOptions as VerifyOptions
    from .exporting.verify import VerifyResult as VerifyResult
    from .exporting.verify import verify as verify
    from .predicting.batch import Labelled as Labelled
    from .predicting.batch import label as label
    from .predicting.options import PredictOptions as PredictOptions
    from .predicting.predict import Prediction as Prediction
    from .predicting.predict import predict as predict
    from .quantizing.options import QuantizeOptions as QuantizeOptions
    from .quantizing.quantize import QuantizeResult as QuantizeResult
    from .quantizing.quantize import quantize as quantize
    from .reporting.compare import Comparison as Comparison
    from .reporting.compare import compare as compare
    from .reporting.options import CompareOptions as CompareOptions
    from .reporting.options import ReportOptions as ReportOptions
    from .reporting.report import ReportResult as ReportResult
    from .reporting.report import report as report
    from .runtime.classifier import Classifier as Classifier
    from .runtime.classifier import Predictions as Predictions
    from .runtime.errors import CheckFailedError as CheckFailedError
    from .runtime.errors import EdgeError as EdgeError
    from .runtime.errors import InputError as InputError
    from .runtime.errors import InterruptedRunError as InterruptedRunError
    from .runtime.errors import MissingPackageError as MissingPackageError
    from .runtime.errors import UndecidedError as UndecidedError
    from .runtime.model_file import ModelFile as ModelFile
    from .training.loop import train as train
    from .training.options import TrainOptions as TrainOptions
    from .training.record import TrainResult as TrainResult
else:  # a checker that saw these would take any name for one that exists

    def _places() -> dict[str, str]:
        """Return the module of each name, from the lines above."""
        import ast  # a device, which asks for nothing here, does not wait for these
        import pkgutil

        source = pkgutil.get_data(__name__, "__init__.py") or b""
        found = (one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.ImportFrom))
        return {one.names[0].name: one.module for one in found if one.level}

    def __getattr__(name: str) -> object:
        from importlib import import_module

        place = None if name.startswith("__") else _places().get(name)
        if place is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{place}", __name__), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_places()})
