"""The device side: run, check and measure an exported model with numpy and onnxruntime alone.

from convnet_edge.runtime import Classifier
"""

from .classifier import Classifier, Predictions
from .errors import CheckFailedError, EdgeError, InputError

__all__ = ["CheckFailedError", "Classifier", "EdgeError", "InputError", "Predictions"]
