import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from convnet_edge.data import cache, reader, worker
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.pictures.preprocess import Preprocessing, read_picture

HOW = Preprocessing((16, 16), 3)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder of five pictures, which this process opens as a worker would: none has to start."""

    def opened_here(paths, how):
        for path in paths:
            found, pixels = worker._open(Path(path), how, None)
            yield reader._Worker(how, None)._opened(json.dumps(found).encode() + b"\n" + pixels)

    monkeypatch.setattr(reader, "read", opened_here)
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(5):
        save(folder / f"{index}.png", index)
    return folder


def save(path, seed, size=(20, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def read(source, cache_dir=None, how=HOW, paths=None, **options):
    """Return what is read of a folder, and how many of its pictures were opened."""
    opened = [0]
    found = cache.read(
        [SimpleNamespace(path=str(path)) for path in paths or sorted(source.iterdir())],
        how,
        cache_dir=cache_dir or source.parent / "cache",
        source=str(source),
        progress=lambda n, total: opened.append(n),
        **options,
    )
    return found, max(opened)


def is_right(found, paths, how=HOW):
    """Say whether pixels and rows are those of the files, opened one by one in this process."""
    expected = [read_picture(path, how).pixels for path in paths]
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.rows["error"].tolist() == [""] * len(paths)
    assert found.rows["n_bytes"].tolist() == [path.stat().st_size for path in paths]
    return True


def test_second_read_opens_nothing_and_returns_the_same(source, monkeypatch):
    first, n_opened = read(source)
    assert n_opened == 5
    assert is_right(first, sorted(source.iterdir()))
    assert set(first.rows["mode"]) == {"RGB"}
    assert set(first.rows["width"]) == {30}
    assert len({row.tobytes() for row in first.rows["sha256"]}) == 5
    assert first.rows["dhash"].all()
    monkeypatch.chdir(source.parent)
    for folder in (source, source.relative_to(source.parent)):
        second, n_opened = read(folder, source.parent / "cache")
        assert n_opened == 0
        np.testing.assert_array_equal(second.rows, first.rows)
        np.testing.assert_array_equal(second.pixels, first.pixels)


def test_only_what_changed_is_opened_again(source):
    read(source)
    paths = sorted(source.iterdir())
    save(paths[1], 11)
    save(source / "new.png", 12)
    paths[3].unlink()
    paths = [source / "new.png", *sorted(source.glob("[0-9].png"), reverse=True)]
    found, n_opened = read(source, paths=paths)
    assert n_opened == 2
    assert is_right(found, paths)
    assert read(source, paths=paths[:2])[1] == 0


def test_change_that_leaves_no_trace_is_seen_by_recheck_alone(source):
    path = source / "0.png"
    Image.new("L", (30, 30), 1).save(path.with_suffix(".bmp"))
    path = path.with_suffix(".bmp")
    read(source)
    before = path.stat()
    Image.new("L", (30, 30), 2).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read(source)[0].pixels[0].max() == 1
    found, n_opened = read(source, recheck=True)
    assert n_opened == 6
    assert is_right(found, sorted(source.iterdir()))


def test_other_preprocessing_has_pixels_of_its_own(source):
    other = Preprocessing((8, 8), 1)
    for how in (HOW, other, HOW, other):
        found, n_opened = read(source, how=how)
        assert is_right(found, sorted(source.iterdir()), how)
    assert n_opened == 0


def test_what_is_left_out_says_why_and_has_no_pixels(source):
    frames = [Image.new("L", (20, 20), value) for value in (0, 9, 99)]
    frames[0].save(source / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(source / "b.jpg", "MPO", save_all=True, append_images=frames[1:])
    save(source / "c.png", 0, size=(3, 3))
    save(source / "d.png", 0, size=(3, 400))
    (source / "e.png").write_text("no picture")
    (source / "f.png").write_bytes((source / "0.png").read_bytes()[:300])
    (source / "g.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    paths = [*sorted(source.glob("[a-z].*")), source / "nothing.png"]
    found, _ = read(source, paths=paths)
    reasons = found.rows["error"].tolist()
    assert reasons[0] == "animated (3 frames)"
    assert reasons[1] == ""
    assert reasons[2] == "too small (3 × 3 pixels)"
    assert reasons[3] == ""
    assert reasons[4] == "not a picture"
    assert reasons[5].startswith("damaged: ")
    assert reasons[6] == "a HEIC picture; pip install pillow-heif"
    assert reasons[7] == "does not exist"
    for reason, pixels in zip(reasons, found.pixels, strict=True):
        assert not (reason and pixels.any())


def test_picture_that_could_not_be_opened_is_tried_again(source):
    path = source / "0.png"
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    before = path.stat()
    assert read(source)[0].rows["error"][0] == "not a picture"
    (file,) = (source.parent / "cache").iterdir()
    written = file.stat().st_ino
    assert read(source)[0].rows["error"][0] == "not a picture"
    assert file.stat().st_ino == written  # nothing is new, nothing is written
    path.write_bytes(whole)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    found, n_opened = read(source)
    assert n_opened == 1
    assert is_right(found, sorted(source.iterdir()))


@pytest.mark.parametrize("place", range(12))
def test_damaged_cache_is_made_again(source, place):
    read(source)
    (file,) = (source.parent / "cache").iterdir()
    content = file.read_bytes()
    at = len(content) * place // 12
    for damaged in (content[:at], content[:at] + os.urandom(len(content) - at), b"", b"PK\3\4" * 9):
        file.write_bytes(damaged)
        found, n_opened = read(source)
        assert n_opened == 5
        assert is_right(found, sorted(source.iterdir()))


def test_cache_of_another_version_is_made_again(source, monkeypatch):
    read(source)
    for version in ("9.9.8", "9.9.9"):
        monkeypatch.setattr(cache, "__version__", version)
        assert read(source)[1] == 5
        assert read(source)[1] == 0
    assert len(list((source.parent / "cache").iterdir())) == 1


def test_two_at_once_each_have_what_they_read_and_leave_one_whole_file(source):
    paths, inner = sorted(source.iterdir()), []

    def meanwhile(n, total):
        if n == 3:
            inner.append(read(source, paths=paths[1:])[0])

    entries = [SimpleNamespace(path=str(path)) for path in paths]
    cache_dir = source.parent / "cache"
    outer = cache.read(entries, HOW, cache_dir=cache_dir, source=str(source), progress=meanwhile)
    assert is_right(outer, paths)
    assert is_right(inner[0], paths[1:])
    assert read(source)[1] == 0
    assert len(list(cache_dir.iterdir())) == 1


def test_full_disk_is_an_error_that_leaves_nothing(source):
    read(source, paths=[source / "0.png"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot be written") as caught:
            read(source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.exit_code == 2
    assert caught.value.line.endswith("with --cache DIR")
    assert len(list((source.parent / "cache").iterdir())) == 1
    assert read(source)[1] == 4


def test_cache_where_a_file_is_is_an_error(source, tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "within"):
        with pytest.raises(InputError, match="cannot be written"):
            read(source, folder)
    with pytest.raises(InputError, match="cannot be read"):
        cache.size(tmp_path / "file")


def test_what_a_killed_process_left_is_removed_a_day_later(source):
    read(source)
    (file,) = (source.parent / "cache").iterdir()
    old, fresh, others = (file.with_name(name) for name in (
        f"{file.name}.{'0' * 16}.tmp", f"{file.name}.{'1' * 16}.tmp", "others.tmp"))  # fmt: skip
    for path in (old, fresh, others):
        path.touch()
    for path in (old, others):
        os.utime(path, times=(time.time() - 2 * cache.LEFTOVER_S,) * 2)
    read(source, recheck=True)
    assert [path.exists() for path in (old, fresh, others)] == [False, True, True]


def test_default_dir_is_the_desktop_s_cache_else_home_s(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.default_dir() == tmp_path / ".cache" / "convnet-edge"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.default_dir() == tmp_path / "x" / "convnet-edge"


def test_user_without_a_home_is_told_to_name_a_folder(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    with pytest.raises(InputError, match="no home folder"):
        cache.default_dir()


def test_size_counts_and_clear_removes_what_is_ours_alone(source, tmp_path):
    cache_dir = tmp_path / "cache"
    assert cache.size(cache_dir) == cache.clear(cache_dir) == 0
    read(source)
    cache.keep_set(cache_dir, "a" * 64, np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64))
    n_bytes = sum(path.stat().st_size for path in cache_dir.iterdir())
    (cache_dir / "diary.pictures").write_text("not ours")
    assert cache.size(cache_dir) == n_bytes > 5 * 16 * 16 * 3
    assert cache.clear(cache_dir) == n_bytes
    assert [path.name for path in cache_dir.iterdir()] == ["diary.pictures"]
    assert read(source)[1] == 5


@pytest.mark.parametrize("shape", [(600, 4, 4), (3, 4, 5, 3)], ids=str)
def test_kept_set_is_found_by_its_digest_and_damage_is_none(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    labels, sha256 = np.arange(len(images)) % 3, "ab" * 32
    assert cache.find_set(tmp_path, sha256) is None
    cache.keep_set(tmp_path, sha256, images, labels)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for place in range(0, len(content), len(content) // 20):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        found = cache.find_set(tmp_path, sha256)  # of the header, what numpy needs alone
        assert found is None
    for damaged in (content[:200], content[: len(content) // 2], b""):
        path.write_bytes(damaged)
        assert cache.find_set(tmp_path, sha256) is None
    path.rename(path.with_name(f"{'cd' * 32}.set")).write_bytes(content)
    assert cache.find_set(tmp_path, "cd" * 32) is None
    cache.keep_set(tmp_path, "cd" * 32, images, labels)
    found = cache.find_set(tmp_path, "cd" * 32)
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.labels.dtype == np.int64


IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
limit = 128 << 20
resource.setrlimit(resource.RLIMIT_DATA, (limit, -1))
from convnet_edge.data import cache, reader
unlimited = f"import resource; resource.setrlimit({resource.RLIMIT_DATA}, (-1, -1))"
reader.START = f"{unlimited}; {reader.START}"
entries = [SimpleNamespace(path=sys.argv[1])] * 65
from convnet_edge.runtime.pictures.preprocess import Preprocessing
how = Preprocessing((1024, 1024), 3, fit="stretch")
for _ in range(2):
    found = cache.read(entries, how, cache_dir=Path(sys.argv[2]), source="x")
    assert found.pixels.nbytes > 1.5 * limit and not found.rows["error"].any(), found.rows["error"]
    print(sum(int(pixels[::256].sum()) for pixels in found.pixels))
try:
    bytearray(found.pixels.nbytes)
except MemoryError:
    print("more than the memory")
"""


@pytest.mark.slow
def test_folder_larger_than_memory_is_read(tmp_path):
    Image.new("RGB", (300, 300), (1, 2, 3)).save(tmp_path / "x.png")
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, tmp_path / "x.png", tmp_path / "cache"],
        capture_output=True, text=True, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stderr == ""
    total = 65 * 4 * 1024 * 6
    assert done.stdout.split("\n") == [str(total), str(total), "more than the memory", ""]
