"""The options that say which pictures: of every stage that takes some, and of those that prepare.

What a source is, and what becomes of it, is decided in `dataset`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..runtime.options import Options, option

SOURCES = (
    "fashion-mnist, sample (10,000 of it, that come with the program), torchvision:NAME, a folder "
    "with a sub-folder for each class, or a table (.csv, .parquet) with path,label[,split]."
)
PICTURES = "Pictures"


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Which pictures a model is tested on, or ranges come from."""

    data: str | None = option(
        None,
        f"Pictures: {SOURCES}",
        metavar="SOURCE",
        default_text="those it was tested on, if they are found",
        panel=PICTURES,
    )
    data_dir: Path | None = option(
        None,
        "Folder of fashion-mnist's or torchvision's own files; if named, no other is searched.",
        default_text="data, else Debian's package, else downloaded into data",
        panel=PICTURES,
    )
    split: Path | None = option(
        None,
        "NAME.split.json that `train` wrote: each picture in it keeps its side.",
        default_text="what the source publishes, else the pictures' own digests",
        panel=PICTURES,
    )
    cache: Path | None = option(
        None,
        "Folder of decoded pictures.",
        default_text="~/.cache/convnet-edge",
        panel=PICTURES,
    )


@dataclass(frozen=True, kw_only=True)
class PreparationOptions(DataOptions):
    """How pictures are made ready for a network that is still to be trained."""

    data: str = option("fashion-mnist", f"Pictures: {SOURCES}", metavar="SOURCE", panel=PICTURES)
    image_size: tuple[int, ...] | None = option(
        None,
        "Pixels that the network sees: one number, or height,width.",
        low=8,
        high=256,
        default_text="the pictures' own if all have one of at most 96, else 64",
        panel=PICTURES,
    )
    channels: Literal["grey", "rgb"] | None = option(
        None, "What it sees of colours.", default_text="rgb; grey if all are", panel=PICTURES
    )
    fit: Literal["pad", "crop", "stretch"] | None = option(
        None,
        "pad: all of a picture on a canvas. crop: its middle. stretch: its sides apart.",
        default_text="crop; fashion-mnist: pad",
        panel=PICTURES,
    )
    filter: Literal["area", "bilinear", "bicubic"] | None = option(
        None,
        "Of resizing, without aliases.",
        default_text="bilinear; fashion-mnist: area",
        panel=PICTURES,
    )
    background: Literal["keep", "remove"] | None = option(
        None,
        "remove: for one object on a plain background, which is made black and cropped.",
        default_text="keep; fashion-mnist: remove",
        panel=PICTURES,
    )
    recheck: bool = option(False, "Decode every picture again.", panel=PICTURES)
    allow_leaks: bool = option(
        False, "Go on although equal pictures stand on two sides; recorded.", panel=PICTURES
    )


@dataclass(frozen=True)
class ExamineOptions(PreparationOptions):
    """Which pictures to look through before training."""

    data: str = option("fashion-mnist", f"Pictures: {SOURCES}", positional=True, metavar="SOURCE")
    clear_cache: bool = option(False, "Remove all decoded pictures first, and say how much it was.")
    out: Path = option(
        Path("runs/data.json"), "Report file; the pictures go beside it.", suffixes=(".json",)
    )
