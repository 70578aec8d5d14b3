"""The options that say which pictures: of every stage that takes some, and of those that prepare.

What a source is, and what becomes of it, is decided in `dataset`.
"""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ..runtime.errors import InputError
from ..runtime.options import Options, option

SOURCES = (
    "fashion-mnist, sample (10,000 of it, that come with the program), torchvision:NAME, a folder "
    "with a sub-folder for each class, or a table (.csv, .parquet) with path,label[,split]."
)
_option = partial(option, panel="Pictures")


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Which pictures a model is tested on, or ranges come from."""

    data: str | None = _option(
        None,
        f"Pictures: {SOURCES}",
        metavar="SOURCE",
        default_text="those it was tested on, if they are found",
    )
    data_dir: Path | None = _option(
        None,
        "Folder of fashion-mnist's or torchvision's own files; if named, no other is searched.",
        default_text="data, else Debian's package, else downloaded into data",
    )
    split: Path | None = _option(
        None,
        "NAME.split.json that `train` wrote: each picture in it keeps its side.",
        default_text="what the source publishes, else the pictures' own digests",
    )
    cache: Path | None = _option(
        None, "Folder of decoded pictures.", default_text="~/.cache/convnet-edge"
    )

    @property
    def cache_dir(self) -> Path:
        """The folder of decoded pictures, by default `$XDG_CACHE_HOME/convnet-edge`.

        Raises:
            InputError: none is named, and this user has no home folder.
        """
        if self.cache:
            return self.cache
        named = Path(os.environ.get("XDG_CACHE_HOME", ""))
        try:  # a relative one is no place: https://specifications.freedesktop.org/basedir-spec
            return (named if named.is_absolute() else Path.home() / ".cache") / "convnet-edge"
        except RuntimeError as error:
            raise InputError(
                "this user has no home folder to keep decoded pictures in",
                expected="HOME or XDG_CACHE_HOME to name a folder",
                next_step="name one with --cache DIR",
            ) from error


@dataclass(frozen=True, kw_only=True)
class PreparationOptions(DataOptions):
    """How pictures are made ready for a network that is still to be trained."""

    data: str = _option("fashion-mnist", f"Pictures: {SOURCES}", metavar="SOURCE")
    image_size: tuple[int, ...] | None = _option(
        None,
        "Pixels that the network sees: one number, or height,width.",
        low=8,
        high=1024,
        default_text="the pictures' own if all have one of 16 to 96, else their median, 64 at most",
    )
    channels: Literal["grey", "rgb"] | None = _option(
        None, "What it sees of colours.", default_text="rgb; grey if all are"
    )
    fit: Literal["pad", "crop", "stretch"] | None = _option(
        None,
        "pad: all of a picture on a canvas. crop: its middle. stretch: its sides apart.",
        default_text="crop; fashion-mnist: pad",
    )
    crop_share: float | None = _option(
        None,
        "With crop: how much of the middle's sides is taken; 0.875 of ImageNet's.",
        above=0,
        high=1,
        default_text="1, or what --weights were trained with",
    )
    filter: Literal["area", "bilinear", "bicubic"] | None = _option(
        None, "Of resizing, without aliases.", default_text="bilinear; fashion-mnist: area"
    )
    background: Literal["keep", "remove"] | None = _option(
        None,
        "remove: for one object on a plain background, which is made black and cropped.",
        default_text="keep; fashion-mnist: remove",
    )
    recheck: bool = _option(False, "Decode every picture again.")
    allow_leaks: bool = _option(
        False, "Go on although equal pictures stand on two sides; recorded."
    )


@dataclass(frozen=True)
class ExamineOptions(PreparationOptions):
    """Which pictures to look through before training."""

    data: str = option("fashion-mnist", f"Pictures: {SOURCES}", positional=True, metavar="SOURCE")
    clear_cache: bool = option(False, "Remove all decoded pictures first, and say how much it was.")
    out: Path = option(
        Path("runs/data.json"), "Report file; the pictures go beside it.", suffixes=(".json",)
    )
