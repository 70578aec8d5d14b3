"""The options of `bundle` and `serve`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..data.options import DataOptions
from ..runtime.options import Options, ceiling, models, option, require


@dataclass(frozen=True)
class BundleOptions(DataOptions):
    """What to hand over, and how."""

    models: tuple[Path, ...] = models()
    target: Literal["pyz", "testdata", "web"] = option(
        "pyz",
        "pyz: one file that runs there. web: a page for any browser. testdata: for ONNX's own test "
        "runners.",
    )
    with_test_set: bool | None = option(
        None, "The test images, too?", default_text="in a page, if they are here"
    )
    ort_web: Path = option(
        Path("node_modules/onnxruntime-web"),
        "For web: npm's onnxruntime-web. Nothing is downloaded.",
    )
    ceiling: float = ceiling()
    out: Path | None = option(
        None,
        "What to write.",
        default_text="NAME.pyz, or the folder NAME-web or NAME-testdata, of the first model",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        alone = len(self.models) < 2 and not self.with_test_set
        more = " and the test set" if self.with_test_set else ""
        require(
            self.target != "testdata" or alone,
            f"{len(self.models)} models{more} as testdata",
            "one model: its golden images are the data",
            "--target",
        )
        require(
            self.target != "pyz" or self.out is None or self.out.suffix == ".pyz",
            f"--out {self.out}",
            "a name that ends in .pyz",
            "--out",
        )


@dataclass(frozen=True)
class ServeOptions(Options):
    """What page to show, and where."""

    folder: Path | None = option(
        None,
        "What `bundle --target web` made.",
        positional=True,
        metavar="DIR",
        default_text="the one page in this folder",
    )
    host: str = option(
        "127.0.0.1",
        "Address or name of this computer to listen on. 0.0.0.0: all, for the local network.",
        metavar="ADDRESS",
    )
    port: int = option(8000, "0: any free one.", low=0, high=65535)
    cert: Path | None = option(None, "For HTTPS: its certificate, PEM.", default_text="plain HTTP")
    key: Path | None = option(None, "For HTTPS: the certificate's key, PEM, without passphrase.")

    def __post_init__(self) -> None:
        super().__post_init__()
        given, lacking = ("--cert", "--key") if self.cert else ("--key", "--cert")
        require(
            bool(self.cert) == bool(self.key),
            f"{given} without {lacking}",
            "both, or neither",
            f"{lacking} FILE",
            verb="add",
        )
