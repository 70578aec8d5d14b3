"""Find the model that a command works on when none is named."""

from __future__ import annotations

from pathlib import Path

from .config import DEFAULT_NAME, EXPORTED_DIR, SHIPPED_NAME

_PACKAGE_DIR = Path(__file__).resolve().parent


def shipped_model() -> Path:
    """Return the model that comes with the program: inside the wheel, or in the checkout."""
    inside = _PACKAGE_DIR / "exported" / f"{SHIPPED_NAME}.onnx"
    return inside if inside.exists() else _PACKAGE_DIR.parent / "exported" / inside.name


def choose_model(named: Path | None) -> Path:
    """Return `named`, else exported/convnet.onnx if there is one, else the shipped model."""
    if named is not None:
        return named
    own = EXPORTED_DIR / f"{DEFAULT_NAME}.onnx"
    return own if own.exists() else shipped_model()
