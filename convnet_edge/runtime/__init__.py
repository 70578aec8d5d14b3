"""The device side: run, check and measure an exported model with numpy and onnxruntime alone.

from convnet_edge.runtime import Classifier
"""

from typing import TYPE_CHECKING

from .errors import CheckFailedError, EdgeError, InputError

__all__ = [
    "CheckFailedError", "Classifier", "EdgeError", "InputError", "Picture", "Pictures",
    "Predictions",
]  # fmt: skip

if TYPE_CHECKING:
    from .classifier import Classifier, Pictures, Predictions
    from .pictures.preprocess import Picture
else:  # a checker that saw it would take any name for one that exists

    def __getattr__(name: str) -> object:
        """Import the classifier when it is first asked for: numpy's 0.1 s would slow --help."""
        if name in __all__:
            from . import classifier

            return getattr(classifier, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
