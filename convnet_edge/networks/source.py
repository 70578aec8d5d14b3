"""Tell by a digest whether the Python that defines a network is what it was.

The file itself, and what it imports of its own folder: found by reading it, nothing is run. To run
it is the business of `build`.
"""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..runtime.files import MIB, read_bytes

MAX_SOURCE_BYTES = 16 * MIB
INSTALLED = {"site-packages", "dist-packages"}  # whose neighbours have nothing to do with a module
STANDARD_DIR = Path(sysconfig.get_path("stdlib")).resolve()
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)  # what `ast.parse` raises


@dataclass(frozen=True)
class Source:
    """The file that defines a network.

    sha256: of its bytes; where it imports files of its folder, of all their digests and names.
    beside: what those are called.
    """

    sha256: str
    beside: tuple[str, ...] = ()


def read(path: Path) -> Source:
    """Return what the file `path` is, and all that it imports of its folder, or they of it.

    Raises:
        InputError: one of them is missing or vast.
    """
    own, text = path.resolve(), _read(path)
    digests = {own: hashlib.sha256(text).hexdigest()}
    waiting = [*_imported(text, own, own.parent)]
    while waiting:
        file = waiting.pop()
        if file in digests:
            continue
        text = _read(file) if file.stat().st_size else b""  # as an __init__.py may be
        digests[file] = hashlib.sha256(text).hexdigest()
        waiting += _imported(text, file, own.parent)
    sha256 = digests.pop(own)
    if not digests:
        return Source(sha256)
    names = {file.relative_to(own.parent).as_posix(): one for file, one in digests.items()}
    lines = [sha256, *(f"{one} {name}" for name, one in sorted(names.items()))]
    return Source(hashlib.sha256("\n".join(lines).encode()).hexdigest(), (*sorted(names),))


def networks_in(path: Path) -> list[str]:
    """Return the classes in a file that look like an `nn.Module`, by reading it."""
    try:
        tree = ast.parse(_read(path))
    except UNREADABLE:
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        bases = node.bases if isinstance(node, ast.ClassDef) else []
        words = {ast.unparse(one).rpartition(".")[2] for one in bases}
        if isinstance(node, ast.ClassDef) and words & {"Module", "Sequential", *names}:
            names.append(node.name)
    return names


def _read(path: Path) -> bytes:
    return read_bytes(path, limit=MAX_SOURCE_BYTES, next_step="name the file with --arch")


def _imported(text: bytes, file: Path, folder: Path) -> Iterator[Path]:
    """Yield the files in `folder` that the Python `text` of `file` imports."""
    if INSTALLED & {*file.parts} or file.is_relative_to(STANDARD_DIR):
        return
    try:
        tree = ast.parse(text)
    except UNREADABLE:  # it will not run either, and is told so there
        return
    tops = [folder, _outside_packages(folder)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names, bases = [one.name for one in node.names], tops
        elif isinstance(node, ast.ImportFrom):
            start = f"{node.module}." if node.module else ""
            names = [start + one.name for one in node.names]
            bases = [*file.parents[node.level - 1 : node.level]] if node.level else tops
        else:
            continue
        for base in bases:
            for name in names:
                yield from (
                    one for one in _on_the_way(base, name.split(".")) if folder in one.parents
                )


def _outside_packages(folder: Path) -> Path:
    """Return from where a module in `folder` is imported by its whole name."""
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _on_the_way(base: Path, parts: list[str]) -> Iterator[Path]:
    """Yield the files that are run to import a name, a package's or a module's."""
    for n in range(1, len(parts) + 1):
        place = base.joinpath(*parts[:n])
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if file.is_file():
                yield file
                break
