"""Open any of torchvision's labelled picture sets, through its own class.

What becomes of its pictures is the business of the data set's caller.
"""

import contextlib
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from ..runtime.errors import InputError, MissingPackageError
from .fashion_mnist import DEFAULT_DIR
from .scan import PART_WORDS, Part

SETS = {  # by what their splits are called; CLEVR's test pictures have no labels
    "train test": "CIFAR10 CIFAR100 EMNIST-balanced EMNIST-byclass EMNIST-bymerge EMNIST-digits "
    "EMNIST-letters EMNIST-mnist FashionMNIST FER2013 Food101 GTSRB KMNIST LFWPeople MNIST QMNIST "
    "StanfordCars STL10 SVHN USPS",
    "train val": "CLEVRClassification ImageNet Imagenette",
    "train val test": "DTD FGVCAircraft Flowers102 PCAM RenderedSST2",
    "train valid test": "Country211",
    "train-standard val": "Places365",
    "trainval test": "OxfordIIITPet",
    "": "Caltech101 Caltech256 EuroSAT SEMEION SUN397",
}
KNOWN = {name.lower(): (name, words) for words, names in SETS.items() for name in names.split()}
NO_DOWNLOAD = ("FER2013", "ImageNet")
FAILURES = (
    OSError, RuntimeError, ValueError, TypeError, AssertionError, EOFError, LookupError,
    SyntaxError, UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True)
class PictureSet:
    """A set's pictures, decoded one by one.

    state: changes when its files do. splits: of each its name, its pictures with their labels, and
    the labels' names, empty where they are only numbers.
    """

    name: str
    state: str
    splits: tuple[tuple[Part | None, Any, Sequence[str]], ...]

    def __len__(self) -> int:
        return sum(len(pictures) for _, pictures, _ in self.splits)

    def __iter__(self) -> Iterator[tuple[Any, str, Part | None]]:
        """Yield each picture, as Pillow's or an array, with its class and split.

        Raises:
            InputError: one cannot be read.
        """
        for part, pictures, names in self.splits:
            for number in range(len(pictures)):
                try:
                    picture, label = pictures[number]
                    name = names[int(label)] if names else str(int(label))
                except FAILURES as error:
                    raise _unusable(f"picture {number} of {self.name}", error) from error
                yield picture, name, part


def open_set(name: str, data_dir: Path | None) -> PictureSet:
    """Open the set `name`, its case ignored, in `data_dir`; with None, where downloads go.

    Raises:
        InputError: no such set, or its files are missing or damaged and cannot be downloaded.
    """
    if name.lower() not in KNOWN:
        near = [KNOWN[one][0] for one in get_close_matches(name.lower(), KNOWN, cutoff=0.3)]
        raise InputError(
            f"torchvision has no labelled picture set {name!r}",
            expected=", ".join(known for known, _ in sorted(KNOWN.values())),
            next_step=f"did you mean {' or '.join(near)}?" if near else "name one of these",
        )
    name, words = KNOWN[name.lower()]
    from torchvision import datasets

    class_name, _, variant = name.partition("-")
    made = getattr(datasets, class_name)
    takes = signature(made).parameters
    splits: list[tuple[Part | None, Any, Sequence[str]]] = []
    for word in words.split() or [""]:
        settings: dict[str, Any] = {"split": variant or word} if word and "split" in takes else {}
        if word and (variant or "train" in takes):
            settings["train"] = word == "train"
        part = PART_WORDS.get(word, "train") if word else None  # trainval, train-standard
        pictures = _open_split(made, name, data_dir, settings)
        splits.append((part, pictures, _class_labels(pictures)))
    return PictureSet(name, _state(data_dir or DEFAULT_DIR), tuple(splits))


def _state(folder: Path) -> str:
    """Return a digest of the names, sizes and times of change of all that is in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        found.update(os.fsencode(f"{path} {about.st_size} {about.st_mtime_ns}\n"))
    return found.hexdigest()


def _open_split(made: Any, name: str, data_dir: Path | None, settings: dict[str, Any]) -> Any:
    """Return one split of a set, downloaded if it is nowhere and `data_dir` is None."""
    root = data_dir or DEFAULT_DIR
    downloads = [] if name in NO_DOWNLOAD else [False, True][: 1 + (data_dir is None)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for how in [{"download": one} for one in downloads] or [{}]:
            try:
                return made(root, **settings, **how)
            except ModuleNotFoundError as error:
                raise MissingPackageError(
                    f"{error.name} is not installed, and torchvision reads {name} with it",
                    expected="it",
                    next_step=f"pip install {error.name}",
                ) from error
            except FAILURES as error:
                failure = error
    raise _unusable(f"{name} in {root}", failure) from failure


def _unusable(what: str, error: BaseException) -> InputError:
    reason = str(error).partition("\n")[0].partition(" You can use")[0] or type(error).__name__
    return InputError(
        f"{what} cannot be read: {reason}",
        expected="its files as torchvision stores them, or a network to download them",
        next_step="name the folder that holds them with --data-dir, or leave that out: then they "
        f"are looked for in {DEFAULT_DIR}, and downloaded into it",
    )


def _class_labels(pictures: Any) -> list[str]:
    """Return a name for each class by its index, none twice; empty where there are only numbers."""
    found = (getattr(pictures, one, None) for one in ("classes", "categories", "class_to_idx"))
    classes = next(filter(None, found), ())
    names = [one if isinstance(one, str) else ", ".join(one) for one in classes]
    n_uses = Counter(names)
    return [f"{one} ({at})" if n_uses[one] > 1 else one for at, one in enumerate(names)]
