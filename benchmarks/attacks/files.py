"""Files that were tampered with, read by the program's functions: its own errors, or none."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
from functools import cache
from pathlib import Path
from typing import Any

import faults
import numpy as np
import onnx
import results as result_files  # of tests/helpers
import tiny
from PIL import Image

from convnet_edge.runtime.classifier import Classifier
from convnet_edge.runtime.model_file import open_model

from .cases import Case, Random, attack, damaged, odd, refused_or_fine

PICTURE_SIDE = 40


def use(model: bytes) -> None:
    """Open a model as a device does, run it, and look into it as a host does."""
    classifier = Classifier(open_model(model))
    goldens = classifier.contract.goldens.images
    classifier(goldens)


@attack("models", 5000)
def models(case: Case) -> None:
    """Graphs changed and sealed again, and files changed and not."""
    made = case.rng.choice((tiny.grey, tiny.grey_uint8, tiny.rgb))()
    if case.number % 3 == 0:
        refused_or_fine(lambda: use(damaged(case.rng, made)))
        return

    def change(proto: onnx.ModelProto) -> None:
        for _ in range(case.rng.choice((1, 1, 2, 5))):
            change_node(case.rng, proto)

    def sealed_again() -> None:
        try:
            changed = faults.change_sealed(made, change)
        except (ValueError, OverflowError, TypeError, onnx.checker.ValidationError):
            return  # what no attacker could write either
        use(changed)

    refused_or_fine(sealed_again)


OPERATORS = (
    "Relu", "Conv", "Gemm", "MaxPool", "Reshape", "Loop", "If", "Scan", "Resize", "Tile", "Expand",
    "ConstantOfShape", "Concat", "Flatten", "Einsum", "NonZero",
)  # fmt: skip


def change_node(rng: Random, proto: onnx.ModelProto) -> None:  # noqa: C901 - one of nine
    """Change something of a graph: an operator, its inputs, attributes, a shape, a weight."""
    graph = proto.graph
    if not graph.node:
        return
    node = rng.choice(graph.node)
    match rng.randrange(9):
        case 0:
            node.op_type = rng.choice(OPERATORS)
        case 1 if node.input:
            names = [one.name for one in graph.initializer] + [*node.input, "", "nowhere"]
            node.input[rng.randrange(len(node.input))] = rng.choice(names)
        case 2 if node.attribute:
            about = rng.choice(node.attribute)
            large = rng.choice((0, -1, 2, 2**31, 2**62, -(2**63)))
            about.i = large
            if about.ints:
                about.ints[rng.randrange(len(about.ints))] = large
        case 3:
            tensor = rng.choice(graph.initializer)
            if tensor.dims:
                place = rng.randrange(len(tensor.dims))
                tensor.dims[place] = rng.choice((0, 1, -1, 7, 2**31, 2**62))
        case 4:
            tensor = rng.choice(graph.initializer)
            tensor.data_type = rng.randrange(0, 24)
        case 5:
            value = rng.choice([*graph.input, *graph.output])
            size = rng.choice((0, -1, 3, 2**40))
            rng.choice(value.type.tensor_type.shape.dim).dim_value = size
        case 6:
            graph.node.append(node)
        case 7:
            graph.node.remove(node)
        case 8:
            tensor = rng.choice(graph.initializer)
            tensor.raw_data = damaged(rng, tensor.raw_data)


@attack("contracts", 3000)
def contracts(case: Case) -> None:
    """Contracts as an attacker writes them: sealed again."""
    from convnet_edge.runtime import contract

    made = case.rng.choice((tiny.grey, tiny.grey_uint8, tiny.rgb))()
    document = json.loads(json.dumps(open_model(made).contract.document))
    changed = odd(case.rng, document)
    try:
        sealed = contract.seal(faults.unsealed(made), changed)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError):
        return  # nothing that a file could hold
    refused_or_fine(lambda: use(sealed))


@attack("checkpoints", 5000)
def checkpoints(case: Case) -> None:
    """Checkpoints with other bytes or headers, loaded into their network."""
    from convnet_edge.networks import checkpoint

    stored, path = (case.base / "x.safetensors").read_bytes(), case.folder / "x.safetensors"
    if case.number % 2:
        path.write_bytes(damaged(case.rng, stored))
    else:
        size = 8 + int.from_bytes(stored[:8], "little")
        header = json.loads(json.loads(stored[8:size])["__metadata__"][checkpoint.HEADER_KEY])
        try:
            path.write_bytes(faults.change_header(stored, odd(case.rng, header)))
        except (ValueError, TypeError, OverflowError):
            return
    refused_or_fine(lambda: checkpoint.load_model(path))


@attack("results", 5000)
def results(case: Case) -> None:
    """Read result files; make the whole report of some."""
    from convnet_edge.reporting.options import ReportOptions
    from convnet_edge.reporting.read import read_results
    from convnet_edge.reporting.report import report

    path = case.folder / "a.json"
    try:
        text = json.dumps(odd(case.rng, whole_result()))
    except (ValueError, OverflowError):
        return
    data = text.encode(errors="surrogatepass")
    path.write_bytes(damaged(case.rng, data) if case.number % 4 == 0 else data)
    refused_or_fine(lambda: read_results([path]))
    if case.number % 50 == 0:
        refused_or_fine(lambda: report(ReportOptions((path,), out=case.folder / "r.html")))


@cache
def whole_result() -> dict[str, Any]:
    """Return a result with every field filled."""
    document: dict[str, Any] = result_files.document(
        batch_ms={1: 0.08}, reasons=[result_files.NOISY]
    )
    return document


@attack("pictures", 10_000)
def pictures(case: Case) -> None:
    """Pictures of every format that Pillow writes, damaged; those opened, and those refused."""
    from convnet_edge.runtime.pictures.preprocess import decode_picture

    made = encoded()
    name = [*made][case.number % len(made)]
    how = Classifier(tiny.rgb()).contract.preprocessing
    data = made[name]
    refused_or_fine(lambda: decode_picture(damaged(case.rng, data), how, name=f"x.{name.lower()}"))


@cache
def encoded() -> dict[str, bytes]:
    """Return a picture in each format that Pillow writes."""
    Image.init()
    draw, found = np.random.default_rng(0), dict[str, bytes]()
    side = PICTURE_SIDE
    first = Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8))
    for name in sorted(Image.SAVE):
        for mode in ("RGB", "L", "1", "P", "RGBA", "CMYK", "F"):
            stream = io.BytesIO()
            try:
                first.convert(mode).save(stream, name)
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError):
                continue
            found[f"{name}"] = stream.getvalue()
            break
    for name in ("GIF", "PNG", "TIFF", "WEBP"):  # of several frames
        stream = io.BytesIO()
        first.save(stream, name, save_all=True, append_images=[first.rotate(90)])
        found[f"{name}2"] = stream.getvalue()
    return found


NAMES = ("a", "-rf", "--help", "a b", "a\nb", "\udcff", "é", "e\u0301", "x" * 200, ".hidden",
         "\x1b[2J", "$(id)", "*", "con", "'\"", "\u202ereversed")  # fmt: skip


@attack("folders", 1000)
def folders(case: Case) -> None:
    """Folders of class folders with odd names, links, pipes and files that are no pictures."""
    from convnet_edge.data import scan

    source = case.folder / "source"
    picture = encoded()["PNG"]
    for _ in range(case.rng.randrange(1, 12)):
        parent = source.joinpath(
            *(case.rng.choice(NAMES) for _ in range(case.rng.choice((0, 1, 1, 1, 2, 3))))
        )
        with contextlib.suppress(OSError):
            parent.mkdir(parents=True, exist_ok=True)
            fill(case.rng, parent, picture)
    refused_or_fine(lambda: scan.scan(str(source), None))


def fill(rng: Random, parent: Path, picture: bytes) -> None:
    """Put something into a folder."""
    path = parent / (rng.choice(NAMES) + rng.choice((".png", ".jpg", "", ".txt", ".PNG")))
    match rng.randrange(9):
        case 0 | 1 | 2:
            path.write_bytes(picture)
        case 3:
            path.write_bytes(damaged(rng, picture))
        case 4:
            os.mkfifo(path)
        case 5:
            path.symlink_to(
                rng.choice(("..", ".", "/proc/self/fd", "/dev/zero", "nowhere", path.name))
            )
        case 6:
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(str(path))
        case 7:
            path.mkdir()
        case 8:
            path.write_bytes(picture)
            path.chmod(0)


@attack("tables", 1000)
def tables(case: Case) -> None:
    """CSV and Parquet tables of pictures, damaged."""
    from convnet_edge.data import scan

    (case.folder / "a.png").write_bytes(encoded()["PNG"])
    columns = case.rng.choice(
        (("path", "label"), ("path", "label", "split"), ("label",), ("path", "path"))
    )
    cells = (
        "a.png",
        "",
        "train",
        "test",
        "\ud800",
        "x" * 10_000,
        "../a.png",
        "nan",
        "/dev/zero",
        '"',
    )
    rows = [[case.rng.choice(cells) for _ in columns] for _ in range(case.rng.randrange(6))]
    text = "\n".join(",".join(row) for row in [columns, *rows]).encode(errors="surrogatepass")
    path = case.folder / "t.csv"
    if case.number % 3 == 0:
        path, text = case.folder / "t.parquet", parquet(case.rng)
    path.write_bytes(damaged(case.rng, text) if case.number % 2 else text)
    refused_or_fine(lambda: scan.scan(str(path), None))


def parquet(rng: Random) -> bytes:
    """Return a Parquet table; of odd types, sometimes."""
    import pyarrow
    from pyarrow import parquet as format_

    odd_cells: tuple[Any, ...] = ("a.png", 3, None, b"\xff", 1.5, ["a.png"], {"a": 1})
    kind = rng.choice(odd_cells)
    table = pyarrow.table({"path": ["a.png", "b.png"], "label": [kind, kind]})
    stream = io.BytesIO()
    format_.write_table(table, stream)
    return stream.getvalue()
