import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnet_edge.data import cache, reader, worker
from convnet_edge.data.duplicates import dhashes, find
from convnet_edge.data.options import DataOptions, PreparationOptions
from convnet_edge.data.scan import Entry, scan_of
from convnet_edge.data.torchvision_sets import PictureSet
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.measure.accuracy import ImageSet
from convnet_edge.runtime.pictures.preprocess import Preprocessing, to_pixels

HOW = Preprocessing((16, 16), 3)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder of five pictures, which this process opens as a worker would: none has to start."""

    def opened_here(paths, how):
        return (worker.open_file(Path(path), how) for path in paths)

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
        scan_of([Entry(str(path), "cat", None) for path in paths or sorted(source.iterdir())]),
        how,
        PreparationOptions(data=str(source), cache=cache_dir or source.parent / "cache", **options),
        lambda n, total: opened.append(n),
    )
    return found, max(opened)


def is_right(found, paths, how=HOW):
    """Say whether pixels and rows are those of the files, opened one by one in this process."""
    expected = [to_pixels(path, how).pixels for path in paths]
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

    scan = scan_of([Entry(str(path), "cat", None) for path in paths])
    cache_dir = source.parent / "cache"
    options = PreparationOptions(data=str(source), cache=cache_dir)
    outer = cache.read(scan, HOW, options, meanwhile)
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
    assert DataOptions().cache_dir == tmp_path / ".cache" / "convnet-edge"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert DataOptions().cache_dir == tmp_path / "x" / "convnet-edge"
    assert DataOptions(cache="here").cache_dir == Path("here")


def test_user_without_a_home_is_told_to_name_a_folder(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    with pytest.raises(InputError, match="no home folder"):
        _ = DataOptions().cache_dir


def test_size_counts_and_clear_removes_what_is_ours_alone(source, tmp_path):
    cache_dir = tmp_path / "cache"
    assert cache.size(cache_dir) == cache.clear(cache_dir) == 0
    read(source)
    cache.keep_set(cache_dir, image_set((2, 4, 4)), Preprocessing((4, 4), 1), NAMES)
    n_bytes = sum(path.stat().st_size for path in cache_dir.iterdir())
    (cache_dir / "diary.pictures").write_text("not ours")
    assert cache.size(cache_dir) == n_bytes > 5 * 16 * 16 * 3
    assert cache.clear(cache_dir) == n_bytes
    assert [path.name for path in cache_dir.iterdir()] == ["diary.pictures"]
    assert read(source)[1] == 5


NAMES = ("a", "b", "c")


def image_set(shape, sha256="ab" * 32):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return ImageSet(images, np.arange(len(images)) % 3, sha256, "here", ("path",) * len(images))


@pytest.mark.parametrize("shape", [(600, 4, 4), (3, 4, 5, 3)], ids=str)
def test_kept_set_is_found_by_its_digest_and_damage_is_none(tmp_path, shape):
    images, how = image_set(shape), Preprocessing(shape[1:3], 3 if len(shape) == 4 else 1)
    assert cache.find_set(tmp_path, images.sha256, how, NAMES) is None
    kept = cache.keep_set(tmp_path, images, how, NAMES)
    assert (kept.images == images.images).all()
    assert (kept.paths, kept.source) == (images.paths, "here")
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for place in range(0, len(content), len(content) // 20):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert cache.find_set(tmp_path, images.sha256, how, NAMES) is None
    for damaged in (content[:200], content[: len(content) // 2], b""):
        path.write_bytes(damaged)
        assert cache.find_set(tmp_path, images.sha256, how, NAMES) is None
    path.unlink()
    cache.keep_set(tmp_path, image_set(shape, "cd" * 32), how, NAMES)
    (other,) = tmp_path.iterdir()
    other.rename(path)  # of another digest
    assert cache.find_set(tmp_path, images.sha256, how, NAMES) is None
    path.write_bytes(content)
    assert cache.find_set(tmp_path, images.sha256, how, NAMES[::-1]) is None
    found = cache.find_set(tmp_path, images.sha256, how, NAMES)
    np.testing.assert_array_equal(found.images, images.images)
    np.testing.assert_array_equal(found.labels, images.labels)
    assert found.labels.dtype == np.int64


def test_set_is_kept_in_the_order_that_is_asked_for(tmp_path):
    how, pixels = Preprocessing((4, 4), 1), image_set((700, 4, 4)).images
    order = np.random.default_rng(1).permutation(700)[:600]
    side = ImageSet(pixels, np.zeros(600, np.int64), "ab" * 32, "here")
    for _ in range(2):
        kept = cache.keep_set(tmp_path, side, how, NAMES, order=order)
        np.testing.assert_array_equal(kept.images, pixels[order])


def test_decoded_set_is_kept_until_its_state_is_another(tmp_path):
    how, shown = Preprocessing((4, 4), 3), []

    class Split:
        def __len__(self):
            return 3

        def __getitem__(self, number):
            shown.append(number)
            picture = np.random.default_rng(number).integers(0, 256, (6, 5, 3), np.uint8)
            return Image.fromarray(picture), number % 2

    def read(state="1", *, recheck=False, how=how):
        shown.clear()
        made = PictureSet("cats", state, (("train", Split(), "ab"), ("test", Split(), ())))
        told = []
        options = PreparationOptions(cache=tmp_path, recheck=recheck)
        found = cache.read_set(made, how, options, lambda *n: told.append(n))
        assert len(told) == len(shown)
        return found, len(shown)

    first, n_shown = read()
    assert n_shown == 6
    labels = [(one.part, one.label) for one in first.scan.entries]
    assert labels == [("train", one) for one in "aba"] + [("test", one) for one in "010"]
    assert set(first.rows["mode"]) == {"RGB"}
    assert len({one.tobytes() for one in first.rows["sha256"]}) == 3
    again, n_shown = read()
    assert (n_shown, again.scan) == (0, first.scan)
    assert (first.scan.class_labels, first.scan.published) == (("0", "1", "a", "b"), True)
    np.testing.assert_array_equal(again.rows, first.rows)
    np.testing.assert_array_equal(again.pixels, first.pixels)
    assert [read("2")[1], read("2")[1], read("2", recheck=True)[1]] == [6, 0, 6]
    assert read("2", how=Preprocessing((8, 8), 1))[1] == 6
    assert len([*tmp_path.iterdir()]) == 2


def test_pictures_that_are_alike_are_looked_for_once_and_again_if_prepared_otherwise(tmp_path):
    rng, pictures = np.random.default_rng(0), []
    for shape in ((12, 16, 16), (12, 16, 16), (12, 16, 16)):
        pixels = rng.integers(0, 256, shape, np.uint8)
        pixels[[3, 7]], pixels[9] = pixels[1], pixels[2] ^ 1
        pictures.append(pixels)
    found = []
    for pixels, fit in zip(pictures, ("crop", "pad", "crop"), strict=True):
        how, rows = Preprocessing((16, 16), 1, fit=fit), np.zeros(12, cache.ROW)
        prepared = cache.Pictures(scan_of([]), how, rows, pixels)
        found.append(cache.find_duplicates(prepared, tmp_path))
    for one, at in zip(found, (0, 1, 0), strict=True):
        expected = find(pictures[at], dhashes(pictures[at]))
        assert one.first.tolist() == [0, 1, 2, 1, 4, 5, 6, 1, 8, 9, 10, 11]
        assert one.near.tolist() == expected.near.tolist() == [[2, 9]]
        assert one.distances.tolist() == expected.distances.tolist()


IN_LITTLE_MEMORY = """
import resource, sys
limit = 128 << 20
resource.setrlimit(resource.RLIMIT_DATA, (limit, -1))
from convnet_edge.data import cache, processes
unlimited = f"import resource; resource.setrlimit({resource.RLIMIT_DATA}, (-1, -1))"
processes.START = f"{unlimited}; {processes.START}"
from convnet_edge.data.options import PreparationOptions
from convnet_edge.data.scan import Entry, scan_of
scan = scan_of([Entry(sys.argv[1], "cat", None)] * 65)
from convnet_edge.runtime.pictures.preprocess import Preprocessing
how = Preprocessing((1024, 1024), 3, fit="stretch")
for _ in range(2):
    found = cache.read(scan, how, PreparationOptions(data="x", cache=sys.argv[2]))
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
