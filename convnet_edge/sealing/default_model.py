"""Find the model that a command works on when none is named, and say where such files lie."""

from pathlib import Path

from ..runtime.options import MODEL_TEXT as MODEL_TEXT

CHECKPOINT = Path("checkpoints/convnet.safetensors")
EXPORTED_DIR = Path("exported")
MODEL_HELP = "The .onnx file."

_SHIPPED = Path("exported/fashion-mnist.onnx")
_PACKAGE_DIR = Path(__file__).resolve().parents[1]


def shipped_model() -> Path:
    """Return the model that comes with the program: inside the wheel, or in the checkout."""
    inside = _PACKAGE_DIR / _SHIPPED
    return inside if inside.exists() else _PACKAGE_DIR.parent / _SHIPPED


def choose_model(named: Path | None) -> Path:
    """Return `named`, else exported/convnet.onnx if there is one, else the shipped model."""
    if named is not None:
        return named
    own = EXPORTED_DIR / f"{CHECKPOINT.stem}.onnx"
    return own if own.exists() else shipped_model()
