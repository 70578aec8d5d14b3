"""The options of the training images that several stages take."""

from typing import Any

from ..runtime.options import option


def data_dir() -> Any:
    """Return the field of the folder of the training images."""
    return option(
        None,
        "Folder of Fashion-MNIST's IDX files; if named, no other is searched.",
        default_text="data, else Debian's package, else downloaded into data",
    )
