import os
import sys
import unicodedata
from pathlib import Path

import pytest

from convnet_edge.data import scan as scanning
from convnet_edge.data.scan import LeftOut, names_within, scan
from convnet_edge.runtime.errors import MOST_NAMED, InputError, MissingPackageError
from convnet_edge.runtime.files import visible

CATS_AND_DOGS = ("cat/1.png", "cat/2.JPG", "dog/a/1.png", "dog/b/c/1.png")


def make(root, *names):
    """Empty files: a scan opens no picture."""
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(root)


def found(source):
    """What is found, by class; and, where splits are published, by split."""
    result = scan(source, None)
    entries = zip(names_within(source, result.entries), result.entries, strict=True)
    assert result.published == all(entry.part is not None for entry in result.entries)
    return {name: (one.label, *filter(None, [one.part])) for name, one in entries}


def reasons(source):
    return {str(one) for one in scan(source, None).left_out}


def test_scan_of_class_folders_gives_nested_files_to_their_first_level(tmp_path):
    source = make(tmp_path, *CATS_AND_DOGS)
    labels = {"cat/1.png": "cat", "cat/2.JPG": "cat", "dog/a/1.png": "dog", "dog/b/c/1.png": "dog"}
    assert found(source) == {name: (label,) for name, label in labels.items()}
    assert scan(source, None).class_labels == ("cat", "dog")


def test_scan_sorts_classes_as_code_points_and_pictures_by_name(tmp_path):
    source = make(tmp_path, *(f"{label}/{n}.png" for label in "éZaÄ2" for n in "21"))
    result = scan(source, None)
    assert result.class_labels == ("2", "Z", "a", "Ä", "é")
    assert [Path(entry.path).name for entry in result.entries] == ["1.png", "2.png"] * 5


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_scan_of_folders_called_as_splits_publishes_them(tmp_path, val):
    names = [f"{top}/{c}/{n}.png" for top in ("Train", val, "testing") for c in "ab" for n in "12"]
    parts = {"Train": "train", val: "validation", "testing": "test"}
    expected = {name: (name.split("/")[1], parts[name.split("/")[0]]) for name in names}
    assert found(make(tmp_path, *names)) == expected


def test_scan_of_train_alone_publishes_no_split(tmp_path):
    assert set(found(make(tmp_path, *(f"train/{name}" for name in CATS_AND_DOGS))).values()) == {
        ("cat",),
        ("dog",),
    }


def test_class_called_train_among_others_is_a_class(tmp_path):
    source = make(tmp_path, *(f"{label}/{n}.png" for label in ("train", "car") for n in "12"))
    assert scan(source, None).class_labels == ("car", "train")


def test_what_is_no_picture_is_left_out_with_its_reason(tmp_path):
    source = make(
        tmp_path, *CATS_AND_DOGS, "top.png", "cat/notes.txt", "dog/a.txt", "cat/model.json",
        "cat/._1.png", "cat/README", ".thumbs/1.png", "dog/.git/1.png", "bird/none.txt",
    )  # fmt: skip
    kinds = ".txt (3), .json (1), hidden (1), no suffix (1), pictures in no class's folder (1)"
    result = scan(source, None)
    assert set(found(source)) == set(CATS_AND_DOGS)
    *others, files = sorted(result.left_out, key=lambda one: one.path == source)
    assert set(others) == {
        LeftOut(".thumbs", "a hidden folder"),
        LeftOut("dog/.git", "a hidden folder"),
        LeftOut("bird", "a folder without a picture"),
    }
    head, _, listed = files.reason.partition(": ")
    assert head == "7 files of no class"
    listed, _, named = listed.partition(", as ")
    assert sorted(listed.split(", ")) == sorted(kinds.split(", "))
    assert set(named.split(", ")) < {
        "cat/notes.txt",
        "dog/a.txt",
        "cat/model.json",
        "cat/README",
        "bird/none.txt",
    }
    assert named.count(", ") == 2


def test_pictures_of_phones_are_listed_so_that_each_says_what_it_needs(tmp_path):
    assert set(found(make(tmp_path, *CATS_AND_DOGS, "cat/3.HEIC", "dog/4.avif"))) == {
        *CATS_AND_DOGS, "cat/3.HEIC", "dog/4.avif",
    }  # fmt: skip


def test_empty_folder_of_a_split_is_named_with_it(tmp_path):
    source = make(tmp_path, *(f"{top}/{one}" for top in ("train", "test") for one in CATS_AND_DOGS))
    (tmp_path / "test/bird").mkdir()
    assert reasons(source) == {"test/bird: a folder without a picture"}


def test_links_are_followed_and_circles_are_left_out(tmp_path):
    source = make(tmp_path / "in", *CATS_AND_DOGS)
    make(tmp_path / "out/fox", "1.png", "deep/2.png")
    for link, end in {
        "in/fox": "out/fox", "in/cat/again": "in", "in/dog/b/up": "in/dog", "in/root": "in",
        "out/fox/deep/self": "out/fox/deep",
    }.items():  # fmt: skip
        (tmp_path / link).symlink_to(tmp_path / end)
    (tmp_path / "in/dog/loop").symlink_to("loop")
    assert set(found(source)) == {*CATS_AND_DOGS, "fox/1.png", "fox/deep/2.png"}
    assert reasons(source) == {
        "cat/again: the same folder as .",
        "dog/b/up: the same folder as dog",
        "fox/deep/self: the same folder as fox/deep",
        "root: the same folder as .",
        f"{source}: 1 file of no class: no suffix (1), as dog/loop",
    }


def test_two_classes_that_link_to_one_folder_keep_both_so_that_it_is_reported(tmp_path):
    source = make(tmp_path, *CATS_AND_DOGS)
    (tmp_path / "wolf").symlink_to("dog")
    assert found(source)["wolf/a/1.png"] == ("wolf",)


def test_folders_within_each_other_without_end_are_cut(tmp_path):
    source = make(tmp_path, *CATS_AND_DOGS)
    folder = tmp_path / "cat"
    for _ in range(scanning.MAX_DEPTH):
        folder /= "d"
    make(folder, "1.png")
    assert set(found(source)) == set(CATS_AND_DOGS)
    assert [one.reason for one in scan(source, None).left_out] == ["in too many folders"]


def test_folder_that_may_not_be_read_is_left_out(tmp_path, monkeypatch):
    source, scandir = make(tmp_path, *CATS_AND_DOGS, "fox/1.png"), os.scandir

    def refuse(path):  # whoever runs this may read everything
        if str(path).endswith("fox"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert reasons(source) == {"fox: cannot be read: Permission denied"}


def test_names_of_any_letters_survive(tmp_path):
    names = (*CATS_AND_DOGS, b"cat/\xff\xfe.png", "cat/a\nb.png", "犬/1.png", "犬/\u202e2.png")
    source = make(tmp_path, *names)
    found = scan(source, None).entries
    paths = {os.fsencode(Path(entry.path).relative_to(tmp_path)) for entry in found}
    assert paths == {os.fsencode(name) for name in names}
    assert all(Path(entry.path).exists() for entry in found)


def test_classes_of_two_systems_spelling_are_one(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD"))
    tops = {"train": decomposed, "test": composed}
    source = make(
        tmp_path, *(f"{t}/{c}/{n}.png" for t, k in tops.items() for c in (k, "b") for n in "12")
    )
    assert scan(source, None).class_labels == (composed, "b")


BAD_FOLDERS = {  # what is in it: found, next step
    "empty": ((), "no picture with a class", "sort the pictures into such"),
    "pictures alone": (("1.png", "2.png"), "no picture with a class", "folder that holds"),
    "one class": (("cat/1.png", "cat/2.png"), "one class, cat", "name the folder"),
    "one picture": ((*CATS_AND_DOGS, "fox/1.png"), "fewer than 2 pictures: fox (1)", "add some"),
    "unknown in test": (
        (*(f"train/{one}" for one in CATS_AND_DOGS), "test/Cat/1.png", "test/Cat/2.png"),
        "classes without training picture: Cat",
        "spell classes the same",
    ),
    "other beside splits": (
        ("train/a/1.png", "test/a/1.png", "extra/a/1.png"), "extra, test, train", "rename",
    ),
    "two for a split": (
        ("train/a/1.png", "val/a/1.png", "valid/a/1.png"), "train, val, valid", "one of two",
    ),
    "no train": (("val/a/1.png", "test/a/1.png"), "test, val", "rename"),
    "split without classes": (("train/1.png", "test/1.png"), "no picture with a class", "sort"),
    "one name two ways": (("e\u0301/1.png", "\u00e9/1.png"), "look the same", "into the other"),
    "no UTF-8": ((*CATS_AND_DOGS, b"\xff/1.png", b"\xff/2.png"), "not UTF-8", "rename them"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folder_is_an_error_that_says_what_to_do(tmp_path, case):
    names, wrong, todo = BAD_FOLDERS[case]
    with pytest.raises(InputError) as raised:
        scan(make(tmp_path / "photos", *names, "photos.txt"), None)
    assert wrong in raised.value.found
    assert todo in raised.value.next_step
    assert raised.value.exit_code == 2
    visible(raised.value.line).encode()


def test_more_classes_than_a_model_names_are_an_error():
    names = [str(n) for n in range(10_001)]
    scanning.require_classes("photos", dict.fromkeys(names[1:], 2), names, ())
    with pytest.raises(InputError, match="photos has 10,001 classes"):
        scanning.require_classes("photos", dict.fromkeys(names, 1), names, ())


def test_error_of_an_empty_source_lists_what_was_left_out(tmp_path):
    source = make(tmp_path, *(f".hidden{n}/1.png" for n in range(12)))
    with pytest.raises(InputError) as raised:
        scan(source, None)
    *listed, last = raised.value.details
    assert len(listed) == MOST_NAMED
    assert "a hidden folder" in listed[0]
    assert last == "left out: and 2 more"


@pytest.mark.parametrize("source", ["nowhere", "no\0where", ""])
def test_source_that_is_not_there_is_an_error(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="neither a folder nor a file"):
        scan(source, None)


def test_data_dir_beside_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="leave out data_dir"):
        scan(make(tmp_path, *CATS_AND_DOGS), tmp_path)


ROWS = "\n".join(f"{name},{name[:3]}" for name in CATS_AND_DOGS)


def table(tmp_path, text, encoding="utf-8"):
    make(tmp_path, *CATS_AND_DOGS)
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding))
    return str(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_table_gives_paths_from_its_folder_whatever_its_columns_order(
    tmp_path, delimiter, encoding
):
    rows = [f'"{name[:3]}",x,{name}' for name in CATS_AND_DOGS]
    text = "\r\n".join(["Label,extra, Path", *rows, ""]).replace(",", delimiter)
    source = table(tmp_path, text, encoding)
    assert found(source) == {name: (name[:3],) for name in CATS_AND_DOGS}
    assert Path(scan(source, None).entries[0].path) == tmp_path / "cat/1.png"


def test_table_with_splits_publishes_them(tmp_path):
    parts = ("train", "VALID", "training", "test")
    rows = [f"{part},{name},{name[:3]}" for part, name in zip(parts, CATS_AND_DOGS, strict=True)]
    assert list(found(table(tmp_path, "\n".join(["split,path,label", *rows]))).values()) == [
        ("cat", "train"), ("cat", "validation"), ("dog", "train"), ("dog", "test"),
    ]  # fmt: skip


def test_table_row_that_cannot_be_used_is_left_out_with_its_reason(tmp_path):
    rows = [f"{name},{name[:3]},train" for name in CATS_AND_DOGS]
    rows += ["fox.png,fox,train", "cat/1.png,,train", "cat/1.png,cat,tset", "table.csv,cat,train",
             "dog/../cat/1.png,cat,train", "dog/a.png", "cat,cat,train", ",cat,train"]  # fmt: skip
    assert reasons(table(tmp_path, "\n".join(["path,label,split", *rows]))) == {
        "fox.png: row 5: no such file",
        "cat/1.png: row 6: no label",
        "cat/1.png: row 7: split 'tset' is not one of train, training, val, valid, validation, "
        "dev, test, testing",
        "table.csv: row 8: no picture by its name",
        "dog/../cat/1.png: row 9: a second time",
        "dog/a.png: row 10: no label",
        "cat: row 11: no picture by its name",
        ": row 12: no picture by its name",
    }


BAD_TABLES = {
    "two labels": (f"path,label\n{ROWS}\ncat/1.png,dog", "cat/1.png twice", "remove"),
    "two splits": ("path,label,split\ncat/1.png,cat,test\ncat/1.png,cat,val", "twice", "remove"),
    "wrong columns": (f"file,class\n{ROWS}", "columns file, class", "name the first row"),
    "no header": (ROWS, "columns cat/1.png, cat", "name the first row"),
    "two of a column": (f"path,label,label\n{ROWS}", "columns path, label, label", "name"),
    "no text": (b"\x89PNG\r\n\x1a\n\xff".decode("latin-1"), "no table", "name a table"),
    "endless cell": ("path,label\n" + "x" * 200_000, "field larger than", "name a table"),
    "empty": ("", "is empty", "name another table"),
    "mark of order alone": ("\ufeff", "columns ", "name the first row"),
    "no rows": ("path,label\n", "no picture with a class", "sort"),
    "nothing usable": ("path,label\nx.png,a\ny.png,b", "no picture with a class", "sort"),
    "one class": ("path,label\ncat/1.png,cat\ndog/a/1.png,cat", "one class, cat", "name"),
    "a picture each": ("path,label\ncat/1.png,cat\ndog/a/1.png,dog", "fewer than 2", "add some"),
    "none trains": (
        "path,label,split\n" + "\n".join(f"{name},{name[:3]},test" for name in CATS_AND_DOGS),
        "without training picture: cat, dog",
        "spell",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_table_is_an_error_that_says_what_to_do(tmp_path, case):
    text, wrong, todo = BAD_TABLES[case]
    encoding = "latin-1" if case == "no text" else "utf-8"
    with pytest.raises(InputError) as raised:
        scan(table(tmp_path, text, encoding), None)
    assert wrong in raised.value.found
    assert todo in raised.value.next_step


def test_parquet_table_gives_what_the_same_csv_does(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [(name, name[:3], "test" if "1" in name else "train") for name in CATS_AND_DOGS]
    rows += [("dog/../dog/a/1.png", "dog", "test"), (None, "cat", "train"), ("x.png", None, None)]
    rows += [("cat/2.JPG", "cat", "train")]
    columns = dict(zip(("path", "label", "split"), zip(*rows, strict=True), strict=True))
    make(tmp_path, *CATS_AND_DOGS, "dog/2.png")
    columns = {name: [*cells, *more] for (name, cells), more in zip(
        columns.items(), (["dog/2.png"], ["dog"], ["train"]), strict=True)}  # fmt: skip
    source = tmp_path / "table.parquet"
    parquet.write_table(arrow.table({"other": [b"x"] * 9, **columns}), source)
    lines = [",".join(cell or "" for cell in row) for row in zip(*columns.values(), strict=True)]
    csv = table(tmp_path, "\n".join(["path,label,split", *lines]))
    assert scan(str(source), None) == scan(csv, None)
    assert len(scan(csv, None).entries) == 5

    source.write_bytes(source.read_bytes()[:-20])
    with pytest.raises(InputError, match="no table, or damaged"):
        scan(str(source), None)
    parquet.write_table(arrow.table({"file": ["a"]}), source)
    with pytest.raises(InputError, match="columns file"):
        scan(str(source), None)


def test_parquet_table_without_pyarrow_says_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "table"
    path.write_bytes(b"PAR1....PAR1")
    with pytest.raises(MissingPackageError, match="pip install pyarrow"):
        scan(str(path), None)
