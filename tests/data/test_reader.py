import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnet_edge.data import processes, reader
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.pictures.preprocess import Preprocessing, to_pixels

GREY, RGB = Preprocessing((8, 8), 1), Preprocessing((8, 12), 3, fit="pad")


@pytest.fixture(autouse=True)
def two_workers(monkeypatch):
    monkeypatch.setattr(reader, "usable_cores", lambda: 2)


@pytest.fixture
def pictures(tmp_path):
    """Files of several formats, sizes and modes, named so that they do not sort by kind."""
    rng, paths = np.random.default_rng(0), []
    for index, (mode, suffix) in enumerate(itertools.product(("L", "RGB"), ("png", "jpg", "bmp"))):
        pixels = rng.integers(0, 256, (10 + index, 20 - index, 3), np.uint8)
        paths.append(tmp_path / f"{index * 5 % 7} é\n{index}.{suffix}")
        Image.fromarray(pixels).convert(mode).save(paths[-1])
    return paths


def crashing(line):
    """Return what starts a worker that does `line` before it opens a file whose name says "bad"."""
    return processes.START.replace(
        "from importlib",
        f"\nimport os, signal\nfrom convnet_edge.data import worker\nopened = worker.open_file\n"
        f"def opening(path, how):\n    if 'bad' in path.name:\n        {line}\n"
        f"    return opened(path, how)\nworker.open_file = opening\nfrom importlib",
    )


def running_children(process_id="self"):
    """Return the ids of the processes that this one started and that have not ended."""
    tasks = Path(f"/proc/{process_id}/task").glob("*/children")
    return {int(child) for task in tasks for child in task.read_text().split()}


def wait_for_the_end(process_ids):
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{one}").exists() for one in process_ids):
        assert time.monotonic() < deadline, "a worker outlives what started it"
        time.sleep(0.01)


@pytest.mark.parametrize("how", [GREY, RGB], ids=["grey", "rgb"])
@pytest.mark.parametrize("n_workers", [1, 3])
def test_pictures_are_read_in_order_as_this_process_reads_them(
    pictures, how, n_workers, monkeypatch
):
    monkeypatch.setattr(reader, "usable_cores", lambda: n_workers)
    paths = pictures * 9
    found = list(reader.read(paths, how))
    for path, one in zip(paths, found, strict=True):
        expected = to_pixels(path, how)
        np.testing.assert_array_equal(one.pixels, expected.pixels)
        assert one.sha256 == hashlib.sha256(path.read_bytes()).digest()
        with Image.open(path) as picture:
            assert ((one.width, one.height), one.mode) == (picture.size, picture.mode)


def test_unreadable_files_have_errors_of_three_parts_and_stop_no_other(pictures, tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(pictures[0].read_bytes()[:60])
    odd = [tmp_path / name for name in ("empty.png", "text.png", "half.png", "gone.png", ".")]
    paths = [path for pair in itertools.zip_longest(odd, pictures) for path in pair if path]
    for path, one in zip(paths, reader.read(paths, GREY), strict=True):
        assert (one.pixels is None) == (path in odd) == (one.error is not None)
        if one.error:
            assert one.error.found.startswith(str(path))
            assert one.error.expected
            assert one.error.next_step


@pytest.mark.parametrize(
    ("line", "why"),
    [("os.kill(os.getpid(), signal.SIGSEGV)", "Segmentation fault"),
     ("os.write(2, b'x' * 10**6); os._exit(3)", "xxx"),
     ("os.write(1, b'noise'); raise KeyError('a defect')", "KeyError: 'a defect'")],
)  # fmt: skip
def test_crash_costs_the_one_picture_that_causes_it(pictures, tmp_path, monkeypatch, line, why):
    monkeypatch.setattr(processes, "START", crashing(line))
    paths = [*pictures * 3]
    for place in (0, 7, 8):  # the first, and two in a row
        paths.insert(place, tmp_path / f"bad {place}.png")
    before = running_children()
    for path, one in zip(paths, reader.read(paths, GREY), strict=True):
        if "bad" in path.name:
            assert one.error.found.startswith(f"{path}: its decoder crashed (")
            assert why in one.error.found
        else:
            np.testing.assert_array_equal(one.pixels, to_pixels(path, GREY).pixels)
    assert running_children() == before


def test_worker_that_cannot_start_is_an_error_with_its_last_words(pictures, monkeypatch):
    monkeypatch.setattr(processes, "START", "import sys; sys.exit('no numpy here')")
    with pytest.raises(InputError, match="cannot be started: no numpy here"):
        list(reader.read(pictures, GREY))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(InputError, match="cannot be started: No such file"):
        list(reader.read(pictures, GREY))


def test_decoder_that_wants_too_much_memory_is_an_error_of_its_picture(tmp_path, monkeypatch):
    limited = processes.START.replace(
        "from importlib",
        "from convnet_edge.data import worker; worker.MAX_MEMORY_BYTES = 400 << 20\nfrom importlib",
    )
    monkeypatch.setattr(processes, "START", limited)
    paths = [tmp_path / "large.png", tmp_path / "small.png"]
    for path, side in zip(paths, (9000, 9), strict=True):
        Image.new("RGB", (side, side)).save(path, compress_level=1)
    large, small = reader.read(paths, GREY)
    assert "too large" in large.error.found
    assert small.pixels is not None


def test_no_more_is_taken_than_what_workers_need_next(pictures):
    asked = itertools.count()
    paths = (pictures[next(asked) % len(pictures)] for _ in itertools.count())
    opened = reader.read(paths, GREY)
    assert all(one.pixels is not None for one in itertools.islice(opened, 40))
    assert next(asked) < 40 + 6 * reader.MAX_CHUNK
    before = running_children()
    opened.close()
    assert len(before - running_children()) == 2


SCRIPT = """
import itertools, sys
from pathlib import Path
from convnet_edge.data import processes, reader
from convnet_edge.runtime.pictures.preprocess import Preprocessing
reader.usable_cores = lambda: 2
paths = itertools.cycle(map(Path, sys.argv[2:]))
for n, one in enumerate(reader.read(paths, Preprocessing((8, 8), 1))):
    if n == int(sys.argv[1]):
        print(one.pixels.shape, flush=True)
        break
"""


def script(pictures, n):
    """Start a script without a `__main__` guard that reads `n` pictures, over and over."""
    path = pictures[0].parent / "script.py"
    path.write_text(SCRIPT if n else SCRIPT.replace("        break\n", ""))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, path, str(n), *pictures], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, env=environment,
    )  # fmt: skip


def test_script_without_a_main_guard_reads(pictures):
    said, errors = script(pictures, 20).communicate(timeout=60)
    assert (said, errors) == ("(8, 8)\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_workers_end_with_what_started_them(pictures, number):
    with script(pictures, 0) as process:
        process.stdout.readline()
        workers = running_children(process.pid)
        assert len(workers) == 2
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.kill()
        assert process.wait(20) == -number
        said = process.stderr.read()
    assert said.count("Traceback") == (number == signal.SIGINT)  # the script's own
    wait_for_the_end(workers)


def test_worker_imports_nothing_heavy():
    code = (
        "import convnet_edge.data.worker, sys; print(*{one.split('.')[0] for one in sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(said.stdout.split()) - set(sys.stdlib_module_names)
    assert loaded <= {"convnet_edge", "numpy", "PIL", "__main__"} | {
        one for one in loaded if one.startswith(("_", "sitecustomize"))
    }
