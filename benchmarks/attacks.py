"""What `campaign.py` tries: rows of numbered cases, each with its own chance and folder.

A case returns if the program held, and raises where it did not. A row either calls the program's
functions, whose only errors may be its own, or starts its commands.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import faults
import numpy as np
import onnx
import results as result_files  # of tests/helpers
import tiny
from PIL import Image

from convnet_edge.bundling import site
from convnet_edge.runtime.archive import read_archive
from convnet_edge.runtime.classifier import Classifier
from convnet_edge.runtime.errors import EdgeError
from convnet_edge.runtime.model_file import open_model
from convnet_edge.runtime.options import declared

Random = random.Random
REPOSITORY = Path(__file__).resolve().parent.parent
CLI = [sys.executable, str(REPOSITORY / "cli.py")]
CODES = {0, 1, 2, 3, 130}  # those that the docs name
END_S, LONG_S = 10.0, 90.0  # for a command that was told to end, and for one that works
PICTURE_SIDE, N_PICTURES = 40, 150


class ImpossibleError(Exception):
    """What is wanted cannot be tried here."""


@dataclass(frozen=True)
class Case:
    """One of a row's. folder: its own, empty. base: what `prepare` made, to be read alone."""

    number: int
    rng: Random
    folder: Path
    base: Path


@dataclass(frozen=True)
class Attack:
    """A row. n: cases. limit_s: of one, for all that it starts."""

    n: int
    limit_s: float
    run: Callable[[Case], None]


ATTACKS: dict[str, Attack] = {}


def attack(
    name: str, n: int, limit_s: float = 10.0
) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Add a function to the rows."""

    def add(run: Callable[[Case], None]) -> Callable[[Case], None]:
        ATTACKS[name] = Attack(n, limit_s, run)
        return run

    return add


@attack("prepare", 0, 240.0)
def prepare(case: Case) -> None:
    """Make pictures, a checkpoint, a model, a result and a bundle."""
    made = case.base
    made.mkdir()
    draw = np.random.default_rng(0)
    for index in range(N_PICTURES):
        path = made / "pictures" / tiny.LABELS[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (16, 16), np.uint8)
        pixels[:, 4 * (index % 3) : 4 * (index % 3) + 4] = 255
        Image.fromarray(pixels).save(path)
    (made / "tiny.onnx").write_bytes(tiny.grey())
    for text in (
        "train --data pictures --epochs 2 --image-size 16 --out x.safetensors",
        "export x.safetensors --out x.onnx",
        "bench tiny.onnx --quick --out tiny.json",
        "bundle tiny.onnx --out tiny.pyz",
    ):
        code, words = run(text.split(), made)
        assert code == 0, words
    seconds = dict[str, float]()
    for name in LINES:
        began = time.perf_counter()
        own = case.folder / name
        own.mkdir()
        code, words = run(line(replace(case, folder=own), name), own)
        assert code == 0, words
        seconds[name] = time.perf_counter() - began
    (made / "seconds.json").write_text(json.dumps(seconds))


@attack("planted", 0, 2.0)
def planted(case: Case) -> None:
    """Fail in every way that the campaign has to notice."""
    match case.number:
        case 1:
            raise ValueError("as planted")
        case 2:
            time.sleep(60)
        case 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 4:
            run(["train", "--epochs", "x"], case.folder, codes={0})
        case 5:
            (case.folder / "x.json").write_text('{"half":')
            require_whole(case.folder)
        case 6:
            sys.exit(0)


# --- what a command may do ---


def run(
    arguments: Sequence[str], folder: Path, *, program: Sequence[str] = CLI,
    limit_s: float = LONG_S, codes: set[int] = CODES, **how: Any,
) -> tuple[int, str]:  # fmt: skip
    """Run a command to its end; return its exit code and words. Raises where it did not hold."""
    process = start(arguments, folder, program=program, **how)
    try:
        said, aside = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        end(process)
        raise AssertionError(f"{arguments}: no end in {limit_s:g} s") from None
    return judge(arguments, process.returncode, said + aside, codes)


def start(
    arguments: Sequence[str], folder: Path, *, program: Sequence[str] = CLI, **how: Any
) -> subprocess.Popen[str]:
    """Start a command in a group of its own, with what it says in pipes."""
    given = {
        "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
    } | how  # fmt: skip
    return subprocess.Popen(
        [*program, *arguments], cwd=folder, text=True, errors="replace", start_new_session=True,
        preexec_fn=listen, **given,
    )  # fmt: skip


def listen() -> None:
    """Let Ctrl-C reach a command that is started from the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a command and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def judge(arguments: Sequence[str], code: int, words: str, codes: set[int]) -> tuple[int, str]:
    """Return code and words, if the exit code is one of those, and the words are for people."""
    for unwanted in ("Traceback (", "leaked ", "Segmentation fault"):
        assert unwanted not in words, f"{arguments}: {words[-1500:]}"
    assert code in codes, f"{arguments}: exit {code}: {words[-1500:]}"
    if code == 2 and "Usage: " not in words:  # which Typer shows with what is wrong in it
        parts = "; expected " in words and "next: " in words
        assert parts or not words, f"{arguments}: {words[-1500:]}"
    return code, words


def require_whole(folder: Path) -> None:
    """Raise unless each file that has a name of its own can be read."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".json": lambda path: json.loads(path.read_text()),
        ".onnx": open_model,
        ".pyz": read_archive,
        ".png": lambda path: Image.open(path).verify(),
        ".safetensors": lambda path: load_checkpoint(
            path, "resume" if path.stem.endswith(".resume") else "model"
        ),
        ".csv": lambda path: require_lines(path),
    }
    for path in folder.rglob("*"):
        if path.suffix in readers and path.is_file() and not path.name.startswith("."):
            try:
                readers[path.suffix](path)
            except (EdgeError, OSError, ValueError, SyntaxError, AssertionError) as error:
                raise AssertionError(f"{path.name} is not whole: {error}") from error


def require_lines(path: Path) -> None:
    """Raise unless a table's last line is a whole one."""
    assert path.read_bytes().endswith(b"\n"), "its last line has no end"


def load_checkpoint(path: Path, kind: str) -> Any:
    """Read a checkpoint."""
    from convnet_edge.networks import checkpoint

    return checkpoint.load(path, kind=kind)


# --- files that were tampered with, read by the program's functions ---


def damaged(rng: Random, data: bytes) -> bytes:
    """Return data with some bytes changed, lost, doubled or put elsewhere."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        place, size = rng.randrange(len(content) + 1), int(rng.expovariate(1 / 40)) + 1
        match rng.randrange(7):
            case 0:
                content[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del content[place : place + size]
            case 2:
                content[place:place] = rng.randbytes(size)
            case 3:
                content[place:place] = content[place : place + size]
            case 4:
                content[place : place + 4] = rng.choice(
                    (b"\xff" * 4, bytes(4), b"\x7f" + b"\xff" * 3)
                )
            case 5:
                del content[place:]
            case 6:
                if content:
                    content[place - 1] ^= 1 << rng.randrange(8)
        if not content:
            return b""
    return bytes(content)


HOSTILE: tuple[Any, ...] = (
    *faults.ODD, "x" * 10**6, "\x1b]0;owned\x07", "../../../etc/passwd", "\x00", "\ud800", 2**63,
    2**64, -(2**63), [[]] * 1000, json.loads("[" * 400 + "]" * 400), 1e308,
    {str(i): i for i in range(5000)},
)  # fmt: skip


def odd(rng: Random, value: Any) -> Any:
    """Return a JSON value with one part of it odd, hostile or left out."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice([*value])
        if rng.random() < 0.1:
            return {name: one for name, one in value.items() if name != key}
        return value | {key: odd(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], odd(rng, value[place]), *value[place + 1 :]]
    return rng.choice(HOSTILE)


def refused_or_fine(action: Callable[[], Any]) -> None:
    """Do something whose only errors may be the program's own, of three parts each."""
    try:
        action()
    except EdgeError as error:
        assert error.found, error
        assert error.expected, error
        assert error.next_step, error


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


# what the page does with files of which it knows nothing; prints whether the model's is unaltered
PAGE = """
import { readFileSync } from "node:fs";
import { InputError, readContract } from "./contract.js";
import { readTestSet } from "./testset.js";
const known = { shape: [6, 6, 1], labels: ["a", "b", "c"] };
async function ask(action) {
  try {
    return (await action()).isUnaltered ?? false;
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return false;
  }
}
const [model, tests] = process.argv.slice(1).map((path) => readFileSync(path));
console.log(await ask(() => readContract(model)), await ask(() => readTestSet(known, tests)));
"""


@attack("page", 5000)
def page(case: Case) -> None:
    """Give the web page damaged and hostile models and test sets; Node runs its code."""
    from convnet_edge.runtime import contract

    node = shutil.which("node")
    if node is None:
        raise ImpossibleError("no Node.js here")
    made = case.rng.choice((tiny.grey, tiny.grey_uint8, tiny.rgb))()
    model, tests = case.folder / "model.onnx", case.folder / "test-set.npz"
    altered = damaged(case.rng, made)
    if case.number % 2:
        document = json.loads(json.dumps(open_model(made).contract.document))
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError, OverflowError):
            altered = contract.seal(faults.unsealed(made), odd(case.rng, document))
    model.write_bytes(altered)
    arrays = io.BytesIO()
    np.savez_compressed(
        arrays, images=np.zeros((4, 6, 6), np.uint8), labels=np.array([0, 1, 2, 0]),
        sha256=np.array("0" * 64),
    )  # fmt: skip
    tests.write_bytes(damaged(case.rng, arrays.getvalue()))
    command = [node, "--input-type=module", "-e", PAGE, "--", str(model), str(tests)]
    done = subprocess.run(
        command, cwd=REPOSITORY / "convnet_edge" / "web", capture_output=True, text=True,
        timeout=END_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    is_unaltered = done.stdout.split()[0] == "true"
    assert not is_unaltered or case.number % 2 or altered == made, "a change was not noticed"


# --- files that were tampered with, given to commands ---


@attack("bundles", 5000)
def bundles(case: Case) -> None:
    """Flip a bit of a .pyz, of each of its first 4 kB before any other: never exit 0."""
    data = bytearray((case.base / "tiny.pyz").read_bytes())
    place = case.number if case.number < 4096 else case.rng.randrange(len(data))
    data[place] ^= 1 << case.rng.randrange(8)
    path = case.folder / "tiny.pyz"
    path.write_bytes(data)
    process = start(["info"], case.folder, program=[sys.executable, str(path)])
    try:
        _, words = process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        end(process)
        raise
    assert process.returncode != 0, f"byte {place}: exit 0"
    assert words, f"byte {place}: not a word"


# --- commands under pressure ---

TRAIN = "train --data {base}/pictures --epochs 6 --image-size 16 --cache cache --out x.safetensors"
LINES = {
    "train": f"{TRAIN} --resume",
    "export": "export {base}/x.safetensors --out x.onnx",
    "quantize": "quantize {base}/x.onnx --data {base}/pictures --max-drop 20 --out x.int8.onnx",
    "bench": "bench {base}/tiny.onnx --quick --out x.json",
    "predict": "predict {base}/pictures --model {base}/tiny.onnx --out answers --format csv",
    "bundle": "bundle {base}/tiny.onnx --out x.pyz",
}


def line(case: Case, name: str) -> list[str]:
    """Return the arguments of a command that works."""
    return LINES[name].format(base=case.base).split()


def pick(case: Case, *lists: Sequence[Any]) -> list[Any]:
    """Return one of each list, so that numbers in a row go through all combinations."""
    number, found = case.number, []
    for listed in lists:
        found.append(listed[number % len(listed)])
        number //= len(listed)
    return found


def stop(case: Case, name: str, how: signal.Signals) -> int:
    """Stop a command at a random moment of its time; return its exit code."""
    longest_s = json.loads((case.base / "seconds.json").read_text())[name]
    process = start(line(case, name), case.folder)
    time.sleep(case.rng.uniform(0, longest_s))
    if process.poll() is None:
        process.send_signal(how)
    try:
        said, aside = process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        end(process)
        raise AssertionError(f"{name} goes on {END_S:g} s after {how.name}") from None
    words = said + aside
    is_pythons = process.returncode == -how or "Fatal Python error: init_" in words
    if is_pythons and "convnet_edge" not in words:
        return -how  # Python itself was still on its way, and says so
    judge([name], process.returncode, words, {0, 130, 143, -signal.SIGTERM, -signal.SIGKILL})
    require_whole(case.folder)
    return process.returncode


@attack("stops", 1200, 60.0)
def stops(case: Case) -> None:
    """Send SIGINT or SIGTERM at a random moment: nothing half-written, and an end."""
    name, how = pick(case, [*LINES], (signal.SIGINT, signal.SIGTERM))
    stop(case, name, how)


@attack("kills", 200, 180.0)
def kills(case: Case) -> None:
    """Kill at a random moment; the same command then comes through."""
    (name,) = pick(case, ("train", "predict"))
    stop(case, name, signal.SIGKILL)
    code, words = run(line(case, name), case.folder)
    assert code == 0, words[-1500:]
    require_whole(case.folder)
    if name == "predict":
        parts = sorted((case.folder / "answers").glob("part-*.csv"))
        n = sum(len(path.read_text().splitlines()) - 1 for path in parts)
        assert n == N_PICTURES, f"{n} rows"


MOUNT = """mount -t tmpfs -o size=$0 tmpfs "$1" && cd "$1" || exit 99
"${@:3}"
code=$?
cp -r . "$2"
exit $code"""


@attack("full disk", 300, 120.0)
def full_disk(case: Case) -> None:
    """Let the disk be full after so many bytes: exit 0 or 2, and what is there is whole."""
    (name,) = pick(case, [*LINES])
    n_pages = int(2 ** case.rng.uniform(0, 9))
    small, kept = case.folder / "small", case.folder / "kept"
    small.mkdir()
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*own, *CLI[:1], "-c", ""], capture_output=True, check=False).returncode:
        raise ImpossibleError("no mounts of one's own, or this Python is out of reach there")
    program = [*own, "bash", "-c", MOUNT, f"{n_pages * 4}k", str(small), str(kept), *CLI]
    environment = os.environ | {"XDG_CACHE_HOME": str(small / "cache")}
    code, words = run(line(case, name), case.folder, program=program, env=environment)
    assert code in (0, 2), f"{code}: {words[-1500:]}"
    require_whole(kept)


CLOCK = """
import random, time
real, random_ = time.time, random.Random(0)
time.time = lambda: real() + random_.choice((-10**6, 0, 0, 10**6))
"""
GONE = "/nonexistent"
SURROUNDINGS: dict[str, dict[str, str | None]] = {
    "no HOME": {"HOME": None, "XDG_CACHE_HOME": None},
    "HOME that is not there": {"HOME": GONE, "XDG_CACHE_HOME": None},
    "cache that cannot be written": {"XDG_CACHE_HOME": "/proc"},
    "TMPDIR that is not there": {"TMPDIR": GONE},
    "no PATH": {"PATH": None},
    "ASCII": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    "terminal of one column": {"COLUMNS": "1", "LINES": "1", "TERM": "dumb"},
    "clock that jumps": {},
}
LIMITS = ("-v 300000", "-v 800000", "-v 1500000", "-v 3000000", "-n 16", "-n 40", "-f 8", "-t 1")
STREAMS = ("<&-", ">&-", "2>&-", ">/dev/full", "2>/dev/full", "</dev/zero", ">&- 2>&-")


@attack("surroundings", 150, 180.0)
def surroundings(case: Case) -> None:
    """Run commands without a home, with odd streams, little memory, few files, a bad clock."""
    name, kind = pick(case, [*LINES], [*SURROUNDINGS, *LIMITS, *STREAMS, "read-only", "no space"])
    environment, program, codes = dict(os.environ), CLI, CODES
    if kind in SURROUNDINGS:
        (case.folder / "clock").mkdir()
        (case.folder / "clock" / "sitecustomize.py").write_text(CLOCK)
        for key, value in SURROUNDINGS[kind].items():
            environment.pop(key, None)
            if value is not None:
                environment[key] = value
        if kind == "clock that jumps":
            kept = environment.get("PYTHONPATH", "")
            environment["PYTHONPATH"] = f"{case.folder / 'clock'}{os.pathsep}{kept}"
    elif kind in LIMITS:
        program = ["bash", "-c", f'ulimit {kind} && exec "$@"', "bash", *CLI]
        codes = CODES | ({-signal.SIGXCPU, -signal.SIGKILL} if kind.startswith("-t") else set())
    elif kind in STREAMS:
        program = ["bash", "-c", f'exec "$@" {kind}', "bash", *CLI]
    elif kind == "read-only":
        case.folder.chmod(0o555)
    try:
        run(line(case, name), case.folder, program=program, env=environment, codes=codes)
    finally:
        case.folder.chmod(0o755)
    require_whole(case.folder)


@attack("at once", 60, 300.0)
def at_once(case: Case) -> None:
    """Run two or eight of the same command in one folder: each ends well or says why not."""
    name, n = pick(case, [*LINES], (2, 2, 2, 2, 8))
    processes = [start(line(case, name), case.folder) for _ in range(n)]
    for process in processes:
        said, aside = process.communicate(timeout=250)
        judge([name], process.returncode, said + aside, {0, 2})
    require_whole(case.folder)


@cache
def all_options() -> list[tuple[str, str]]:
    """Return each command with each of its options."""
    import inspect

    from convnet_edge.commands.app import COMMANDS

    found = []
    for name, command in COMMANDS.items():
        hints = get_type_hints(command, vars(inspect.getmodule(command)))
        kind = hints.get("options")
        found += [(name, one.flag) for one in declared(kind) if not one.positional] if kind else []
    return found


VALUES = ("", "-1", "0", "9" * 30, "nan", "x")
BASES = LINES | {
    "predict": "predict {base}/pictures/ring/2.png --model {base}/tiny.onnx",
    "verify": "verify {base}/tiny.onnx --out v.json",
    "inspect": "inspect {base}/tiny.onnx",
    "compare": "compare {base}/tiny.onnx {base}/tiny.onnx --pairs 6",
    "report": "report {base}/tiny.json --out r.html",
    "adopt": "adopt {base}/tiny.onnx --data {base}/pictures",
    "data": "data {base}/pictures --cache cache",
    "doctor": "doctor",
}


@attack("options", 1500, 60.0)
def options(case: Case) -> None:
    """Give an option an empty, negative, zero, huge, undefined or wrong value."""
    (name, flag), value = pick(case, all_options(), VALUES)
    arguments = BASES.get(name, name).format(base=case.base).split()
    process = start([*arguments, flag, value], case.folder)
    try:
        said, aside = process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:  # the value is one to work with
        process.send_signal(signal.SIGINT)
        try:
            said, aside = process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            end(process)
            raise AssertionError(f"{name} {flag} {value!r} goes on after SIGINT") from None
    judge([*arguments, flag, value], process.returncode, said + aside, CODES)
    require_whole(case.folder)


TAKERS = {
    "inspect {odd}", "verify {odd}", "bench {odd} --quick", "bench {model} --quick --out {odd}",
    "report {odd}", "report {result} --out {odd}", "predict {odd} --model {model}",
    "predict {picture} --model {odd}", "predict {pictures} --model {model} --out {odd}",
    "export {odd}", "export {checkpoint} --out {odd}", "quantize {odd} --data {pictures}",
    "train --data {odd} --epochs 1", "data {odd}", "data {pictures} --cache {odd}", "bundle {odd}",
    "bundle {model} --out {odd}", "compare {odd} {model} --pairs 6", "serve {odd}",
    "adopt {odd} --data {pictures}", "verify {model} --against {odd}", "bench --hosts {odd}",
}  # fmt: skip
PLACES = ("fifo", "socket", "/proc/self/mem", "/dev/zero", "/dev/full", "loop", "many",
          "\udcff.onnx", "a\nb.onnx", "-x.onnx", "folder", "shut", "/", "empty.onnx", "x" * 300,
          "\x1b[2J.json",
          "/proc", "~", "dangling", ".")  # fmt: skip


@attack("paths", 440, 60.0)
def paths(case: Case) -> None:
    """Name pipes, sockets, devices, loops, folders and odd names where a file is wanted."""
    taker, name = pick(case, sorted(TAKERS), PLACES)
    place = made_place(case.folder, name)
    named: dict[str, str | Path] = {
        "odd": place, "model": case.base / "tiny.onnx", "pictures": case.base / "pictures",
        "picture": case.base / "pictures/ring/2.png", "result": case.base / "tiny.json",
        "checkpoint": case.base / "x.safetensors",
    }  # fmt: skip
    arguments = [part.format(**{key: os.fspath(one) for key, one in named.items()})
                 for part in taker.split()]  # fmt: skip
    if place == "/" and arguments[0] in ("data", "train"):  # a whole disk takes its time
        process = start(arguments, case.folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.send_signal(signal.SIGINT)
        try:
            said, aside = process.communicate(timeout=END_S)
        finally:
            end(process)
        judge(arguments, process.returncode, said + aside, CODES)
        return
    run(arguments, case.folder, limit_s=20.0)


def made_place(folder: Path, name: str) -> str:
    """Make what a name stands for, and return how it is named."""
    path = folder / name if len(name) < 256 else Path(name)
    match name:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(name)
        case "loop":
            path.symlink_to("loop")
        case "dangling":
            path.symlink_to("nowhere")
        case "many":
            path.mkdir()
            for index in range(5000):
                (path / f"{index}.png").touch()
        case "folder" | "shut":
            path.mkdir()
            path.chmod(0o755 if name == "folder" else 0)
        case "empty.onnx" | "-x.onnx" | "a\nb.onnx" | "\udcff.onnx":
            path.write_bytes(b"" if name == "empty.onnx" else tiny.grey())
    return name


# --- the server ---

N_REQUESTS, N_SLOW = 100, 200
LINE_PARTS = (
    b"GET ", b"POST ", b"HEAD ", b"/", b"/main.js", b"/../../etc/passwd", b"/%2e%2e/%00",
    b" HTTP/1.1", b" HTTP/9.9", b"\r\n", b"\n", b"Host: 127.0.0.1\r\n", b"Host: evil\r\n",
    b"\r\n\r\n", b"\x00" * 9, b"\xff\xfe", b"Content-Length: -1\r\n", b"Range: bytes=5-1\r\n",
    b"A: " + b"b" * 70_000 + b"\r\n", b"Transfer-Encoding: chunked\r\n", b"\x16\x03\x01",
    b"Connection: keep-alive\r\n",
)  # fmt: skip


@attack("server", 100, 60.0)
def server(case: Case) -> None:
    """Send raw bytes, and hold connections of slow clients open; others are served all the same."""
    page = case.folder / "page"
    page.mkdir()
    for name in ("index.html", "main.js", "sw.js"):
        (page / name).write_text(name)
    files = dict.fromkeys(("index.html", "main.js", "sw.js"), "sha256-")
    (page / "site.json").write_text(json.dumps({"schema": site.SCHEMA, "files": files}))
    process = start(["serve", str(page), "--port", "0"], case.folder)
    assert process.stdout
    port = 0
    while not port:
        words = process.stdout.readline()
        assert words, "it did not begin"
        found = re.search(r"http://127\.0\.0\.1:(\d+)", words)
        port = int(found[1]) if found else 0
    with contextlib.ExitStack() as open_:
        open_.callback(process.kill)
        for _ in range(N_SLOW if case.number % 10 == 0 else 3):
            slow = open_.enter_context(socket.create_connection(("127.0.0.1", port), END_S))
            slow.send(b"GET /main.js HT")
        for _ in range(N_REQUESTS):
            raw = b"".join(case.rng.choice(LINE_PARTS) for _ in range(case.rng.randrange(1, 12)))
            with contextlib.suppress(OSError):
                one = socket.create_connection(("127.0.0.1", port), END_S)
                with one:
                    one.sendall(raw)
                    one.shutdown(socket.SHUT_WR)
                    one.settimeout(0.05)
                    assert b"root:" not in one.recv(65536)
        began = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/main.js", timeout=END_S) as answer:
            assert answer.read() == b"main.js"
        assert time.monotonic() - began < END_S
        process.send_signal(signal.SIGINT)
        said, aside = process.communicate(timeout=END_S)
    judge(["serve"], process.returncode, said + aside, {0, 130})
