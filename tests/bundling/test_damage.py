"""A bundle that is damaged in any way says FAIL, or Python refuses it: never exit 0 in silence."""

import ast
import io
import random
import subprocess
import sys
import tokenize
import zipimport

import pytest
import tiny

from convnet_edge.bundling.bundle import bundle
from convnet_edge.bundling.options import BundleOptions
from convnet_edge.runtime import archive
from convnet_edge.runtime.errors import CheckFailedError

FIRST, LAST = 4096, 1024
WORDS = "FAIL--the-file-is-incomplete--expected-the-bytes-that-were-bundled--next--copy-it-again"
ALTERED = "d.pyz: FAIL: the file was altered or is incomplete; expected "
SHORTEST = archive.START.index(b"FAIL") + 1  # of which Python finds the encoding wanting


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "tiny.onnx"
    path.write_bytes(tiny.grey())
    return bundle(BundleOptions((path,), out=path.with_suffix(".pyz"))).path.read_bytes()


def places(content):
    """Return the first and last bits of the file."""
    last = range(8 * (len(content) - LAST), 8 * len(content))
    return [*range(8 * FIRST), *last]


def flipped(content, place):
    damaged = bytearray(content)
    damaged[place // 8] ^= 1 << place % 8
    return bytes(damaged)


def start(path, damaged):
    """Run what is left as a person would; return the exit code and what was said."""
    path.write_bytes(damaged)
    command = [sys.executable, str(path), "selftest"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_whole_bundle_passes(content, tmp_path):
    code, said, _ = start(tmp_path / "d.pyz", content)
    assert (code, said.splitlines()[-1]) == (0, "PASS")


def test_truncated_or_extended_bundle_says_fail(content, tmp_path):
    rng = random.Random(0)
    for size in (SHORTEST, len(content) - 1, *rng.choices(range(SHORTEST, len(content)), k=6)):
        code, said, errors = start(tmp_path / "d.pyz", content[:size])
        assert (code, said) == (1, ""), size
        assert WORDS[: size - SHORTEST + 1] in errors or ALTERED in errors
        with pytest.raises(CheckFailedError, match="altered"):  # as a program finds it
            archive.read_archive(tmp_path / "d.pyz")
    for damaged in (b"x" + content, content + b"x", content + bytes(100_000)):
        code, said, errors = start(tmp_path / "d.pyz", damaged)
        assert (code, said) == (1, "")
        assert ALTERED in errors or WORDS in errors


def test_python_takes_no_truncated_bundle_for_a_program(content):
    for size in random.Random(1).choices(range(SHORTEST, len(content)), k=200):
        with pytest.raises(SyntaxError, match="unknown encoding: FAIL"):
            tokenize.detect_encoding(io.BytesIO(content[:size]).readline)


def test_sample_of_flipped_bits_in_real_processes(content, tmp_path):
    rng, middle = random.Random(2), range(8 * FIRST, 8 * (len(content) - LAST))
    for place in (*rng.sample(places(content), 12), *rng.sample(middle, 3)):
        code, said, errors = start(tmp_path / "d.pyz", flipped(content, place))
        assert (code, said) == (1, ""), place
        assert errors


def run_source(source, path):
    """Run the changed start of a bundle as Python would; return what ends it."""
    with pytest.raises((Exception, SystemExit)) as ended:  # without one, Python exits with 0
        exec(
            compile(source, str(path / "__main__.py"), "exec"),
            {"__name__": "__main__", "__file__": str(path / "__main__.py")},
        )
    return ended.value


@pytest.mark.filterwarnings("ignore")  # what a flipped start does not close
@pytest.mark.parametrize(
    "step", [41, pytest.param(1, marks=pytest.mark.slow)], ids=["sample", "every bit"]
)
def test_no_flipped_bit_ends_in_exit_0(content, tmp_path, step):
    """Python runs the whole start, which finds the flip; or a changed one, which fails; or none."""
    path = tmp_path / "d.pyz"
    path.write_bytes(content)
    source = archive.read_archive(path).members["__main__.py"].decode()
    whole = ast.dump(ast.parse(source))
    assert content.index(source.encode()) + len(source.encode()) <= FIRST
    n_whole = n_changed = 0
    for place in places(content)[::step]:
        path.write_bytes(flipped(content, place))
        zipimport._zip_directory_cache.clear()
        try:
            found = zipimport.zipimporter(str(path)).get_source("__main__")
            is_whole = found == source or ast.dump(ast.parse(found)) == whole  # but for a comment
        except (zipimport.ZipImportError, EOFError, SyntaxError, TypeError, ValueError):
            continue  # exit 1: no zip, so START is read as source; or no program in it
        n_whole += is_whole
        if not is_whole:
            ended = run_source(found, path)
            assert not isinstance(ended, SystemExit) or ended.code not in (0, None), place
            n_changed += 1
    assert min(n_whole, n_changed) > 100
