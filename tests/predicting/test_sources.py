"""What a source is, and what is found in it."""

import itertools
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest
import tiny
from PIL import Image

from convnet_edge.predicting import sources
from convnet_edge.runtime.errors import InputError

PICTURE = b"a picture"


@pytest.fixture
def folder(tmp_path):
    """Files by name: pictures of a phone, too, and others."""
    found = tmp_path / "photos"
    (found / "b inner").mkdir(parents=True)
    for name in ("a.PNG", "z.jfif", "c.heic", "b inner/d.avif", "e.eps", "f.jp2", "g.onnx"):
        (found / name).write_bytes(PICTURE)
    return found


def names(*given):
    return [item.name for item in sources.find(map(Path, given))]


def errors(*given):
    return [item.error.found for item in sources.find(map(Path, given)) if item.error]


def test_folders_are_searched_for_what_is_opened_and_for_phone_pictures(folder):
    expected = [folder / name for name in ("a.PNG", "b inner/d.avif", "c.heic", "z.jfif")]
    assert names(folder) == list(map(str, expected))
    assert names(folder / "g.onnx", folder / "a.PNG") == [
        str(folder / "g.onnx"), str(folder / "a.PNG"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [".txt", ".lst", ".csv", ".tsv.csv", ".parquet"])
def test_lists_and_tables_name_pictures_from_where_they_lie(folder, kind):
    listed = ["photos/a.PNG", "photos/../photos/z.jfif", "", str(folder / "c.heic")]
    path = folder.parent / f"list{kind}"
    if kind == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = {"label": [*"abcd"], "Path": [*listed[:2], None, listed[3]]}
        parquet.write_table(arrow.table(columns), path)
    elif kind.endswith(".csv"):
        rows = [("label", " PATH "), *zip("abcd", listed, strict=True)]
        path.write_text("\n".join(("\t" if "tsv" in kind else ";").join(row) for row in rows))
    else:
        path.write_text("\r\n".join(listed))
    assert names(path) == [str(folder / name) for name in ("a.PNG", "z.jfif", "c.heic")]


def test_tar_files_hold_pictures_that_are_read_where_they_stand(folder):
    shard = folder.parent / "shard.tar"
    with tarfile.open(shard, "w") as made:
        made.add(folder, "photos")
    inside = ("a.PNG", "b inner/d.avif", "c.heic", "z.jfif")
    assert sorted(names(shard)) == [f"{shard}/photos/{name}" for name in inside]
    assert {item.read() for item in sources.find([shard])} == {PICTURE}
    item = next(sources.find([shard]))
    shard.write_bytes(shard.read_bytes()[: item.start + 3])
    with pytest.raises(InputError, match="ends before it"):
        item.read()
    shard.unlink()
    with pytest.raises(InputError, match="cannot be read: No such file"):
        item.read()
    for size in (0, 1 << 40):
        with pytest.raises(InputError, match="bytes"):
            item._replace(size=size).read()


def test_source_that_cannot_be_read_is_an_item_with_its_error(folder):
    (folder.parent / "empty").mkdir()
    for name, content in (("bad.csv", b"\xff\xfe\0"), ("other.csv", b"file;label\na;b"),
                          ("bad.parquet", b"PAR1"), ("bad.tar", b"x" * 2000),
                          ("zipped.tar", b"\x1f\x8b\x08")):  # fmt: skip
        (folder.parent / name).write_bytes(content)
    pytest.importorskip("pyarrow")
    here = folder.parent
    found = errors(here / "empty", here / "gone.csv", here / "bad.csv", here / "other.csv",
                   here / "bad.parquet", here / "bad.tar", here / "zipped.tar",
                   here / "gone.txt", folder)  # fmt: skip
    for part, text in zip(
        ("holds no picture", "No such file", "cannot be read", "has the columns file, label",
         "is no Parquet", "cannot be read", "cannot be read", "No such file"), found, strict=True,
    ):  # fmt: skip
        assert part in text
    with pytest.raises(InputError, match=r"gone\.png does not exist"):
        next(sources.find([here / "gone.png"])).read()


def test_links_in_a_folder_lead_nowhere_and_one_that_is_shut_stops_no_other(folder, monkeypatch):
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "looks like one.png").symlink_to(folder / "b inner")
    assert len(names(folder)) == 4
    real = os.scandir

    def shut(path):
        if path.endswith("inner"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", shut)
    assert len(names(folder)) == 4
    assert errors(folder) == [f"{folder / 'b inner'} cannot be read: Permission denied"]


def test_a_list_is_not_held_in_memory(tmp_path):
    path = tmp_path / "long.txt"
    with path.open("w") as file:
        file.writelines(f"folder/{n:060}.png\n" for n in range(20_000))
    found = sources.find([path])
    next(found)
    tracemalloc.start()
    assert sum(1 for _ in itertools.islice(found, 19_999)) == 19_999
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_names_that_are_no_text_are_found(tmp_path):
    path = tmp_path / "na\udcffme.png"
    try:
        Image.fromarray(tiny.images(1)[0]).save(path)
    except OSError:
        pytest.skip("this file system takes text alone")
    assert names(tmp_path) == [str(path)]
    (tmp_path / "list.txt").write_bytes(b"na\xffme.png\n")
    assert names(tmp_path / "list.txt") == [str(path)]
