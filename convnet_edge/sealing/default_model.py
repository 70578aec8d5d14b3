"""Find the model that a command works on when none is named, and say where such files lie."""

from pathlib import Path

from ..runtime.errors import InputError

CHECKPOINT = Path("checkpoints/convnet.safetensors")
EXPORTED_DIR = Path("exported")


def shipped_model() -> Path:
    """Return the model that comes with the program: inside the wheel, or in the checkout."""
    package_dir, place = Path(__file__).resolve().parents[1], "exported/fashion-mnist.onnx"
    inside = package_dir / place
    return inside if inside.exists() else package_dir.parent / place


def to_name(path: Path) -> tuple[Path, ...]:
    """Return what to type for a command to take `path`: nothing, if it does so unasked."""
    return () if path == choose_model(None) else (path,)


def choose_model(named: Path | None) -> Path:
    """Return `named`, else exported/convnet.onnx if there is one, else the shipped model.

    Raises:
        InputError: `named` is a folder by its very name.
    """
    if named is not None:
        if not named.name:
            raise InputError(
                f"{named} is a folder", expected="a model file", next_step="name one in it"
            )
        return named
    own = EXPORTED_DIR / f"{CHECKPOINT.stem}.onnx"
    return own if own.exists() else shipped_model()
