import json
import os

import numpy as np
import pytest

from convnet_edge.data import checks
from convnet_edge.data.cache import ROW, Pictures
from convnet_edge.data.duplicates import Duplicates
from convnet_edge.data.scan import Entry, LeftOut, Scan
from convnet_edge.data.split import TEST, TRAIN, UNUSED, VALIDATION
from convnet_edge.runtime.errors import CheckFailedError, InputError
from convnet_edge.runtime.pictures.preprocess import Preprocessing

LABELS = ("cat", "dog")


@pytest.fixture(autouse=True)
def photos(tmp_path, monkeypatch):
    """The folder that the pictures are in; nothing looks into it."""
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)


def check(pictures, *, left_out=(), errors=None, sizes=None, copies=(), near=(), **more):
    """Check `pictures`: (path, label, part), the label that of its first folder unless given."""
    pictures = [
        one if len(one) == 3 else (one[0], one[0].split("/")[0], one[1]) for one in pictures
    ]
    rows = np.zeros(len(pictures), ROW)
    rows["mode"] = "RGB"
    rows["width"], rows["height"] = 30, 20
    for at, (width, height, mode) in (sizes or {}).items():
        rows[["width", "height", "mode"]][at] = width, height, mode
    for at, error in (errors or {}).items():
        rows["error"][at] = error
    entries = tuple(Entry(f"photos{os.sep}{path}", label, None) for path, label, _ in pictures)
    labels = tuple(sorted({entry.label for entry in entries}))
    scan = Scan(entries, labels, tuple(left_out), published=False)
    prepared = Pictures(scan, Preprocessing((8, 8), 3), rows, np.zeros(0))
    parts = np.array([part for *_, part in pictures], np.int8)
    first = np.arange(len(pictures))
    for group in copies:
        first[group] = min(group)
    pairs = np.array([pair for *pair, _ in near], int).reshape(-1, 2)
    alike = Duplicates(first, pairs, np.array([distance for *_, distance in near], float))
    return checks.check("photos/", prepared, parts=parts, alike=alike, **more)


def of(label, *, train=0, validation=0, test=0, folder=""):
    counts = ((TRAIN, train), (VALIDATION, validation), (TEST, test))
    parts = [part for part, n in counts for _ in range(n)]
    return [(f"{label}/{folder}{at}.png", part) for at, part in enumerate(parts)]


GOOD = [one for label in LABELS for one in of(label, train=30, validation=20, test=20)]


def test_good_data_set_has_its_counts_and_no_warning():
    report = check(GOOD, sizes={0: (100, 7, "L"), 1: (9, 200, "RGBA"), 2: (31, 20, "RGB")})
    assert [(one.label, one.train, one.validation, one.test) for one in report.classes] == [
        ("cat", 30, 20, 20),
        ("dog", 30, 20, 20),
    ]
    assert (report.widths, report.heights) == ((9, 30.0, 100), (7, 20.0, 200))
    assert report.modes == {"RGB": 138, "L": 1, "RGBA": 1}
    assert (report.left_out, report.leaks, report.near, report.warnings) == ((), (), (), ())
    report.refuse_leaks()
    text = "\n".join(report.lines())
    assert "140 pictures of 2 classes: 60 train, 40 validation, 40 test (by digest)" in text
    assert (
        "widths 9 to 100 (median 30), heights 7 to 200 (median 20); RGB (138), L (1), RGBA (1)"
        in text
    )


def test_what_cannot_be_read_or_stands_on_two_sides_is_left_out_with_its_reason():
    pictures = [*GOOD, ("cat/bad.png", UNUSED), ("dog/torn.png", UNUSED)]
    before = LeftOut("photos", "1 files of other kinds: .txt (1)")
    report = check(pictures, errors={140: "it is truncated"}, left_out=[before])
    assert report.left_out == (
        LeftOut("cat/bad.png", "it is truncated"),
        LeftOut("dog/torn.png", checks.TORN),
        before,
    )
    assert sum(one.n for one in report.classes) == 140
    assert "  cat/bad.png: it is truncated" in report.lines()


def test_class_that_cannot_be_read_is_an_error_that_lists_why():
    pictures = [*GOOD, ("fox/1.png", TRAIN), ("fox/2.png", UNUSED)]
    with pytest.raises(
        InputError, match="photos/ has classes with fewer than 2 pictures: fox"
    ) as raised:
        check(pictures, errors={141: "it is truncated"})
    assert "left out: fox/2.png: it is truncated" in raised.value.details
    with pytest.raises(InputError, match="without training picture: fox"):
        check([*GOOD, ("fox/1.png", TEST), ("fox/2.png", TEST)])


WARNINGS = {
    "few test pictures": (of("cat", train=30, validation=20, test=19), "rough scores, of cat (19)"),
    "no test picture": (of("cat", train=40, validation=20), "no test picture, so scores 'not meas"),
    "no validation": (of("cat", train=40, test=20), "no validation picture, so"),
    "imbalance": (of("cat", train=171, validation=20, test=20), "cat has 211 pictures, dog 70"),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_warning_names_the_class_that_it_is_about(case):
    pictures, said = WARNINGS[case]
    (warning,) = check([*pictures, *GOOD[70:]]).warnings
    assert said in warning
    assert "cat" in warning


def test_imbalance_of_three_times_is_none():
    assert check([*of("cat", train=170, validation=20, test=20), *GOOD[70:]]).warnings == ()


def test_class_from_one_folder_is_named_where_others_come_from_several():
    days = [*of("fox", train=20, validation=20, test=20, folder="mon/"),
            *of("fox", train=20, folder="tue/")]  # fmt: skip
    (warning,) = check([*GOOD, *days]).warnings
    assert "several: cat, dog; " in warning
    published = [(f"{part}/{path}", path[:3], at) for path, at in GOOD for part in [f"split{at}"]]
    assert check(published).warnings == ()


def test_pixel_equal_pictures_in_two_splits_or_of_two_labels_are_refused_and_no_others():
    cat_train, cat_test, dog_train = 0, 60, 70
    report = check(GOOD, copies=[[cat_train, 1, cat_test], [2, dog_train], [3, 4], [139]])
    assert [str(one) for one in report.leaks] == [
        "cat/0.png (train, cat) = cat/60.png (test, cat)",
        "cat/2.png (train, cat) = dog/0.png (train, dog)",
    ]
    assert report.n_copies == 4
    with pytest.raises(
        CheckFailedError, match="pixel-equal in two splits or of two labels: 2"
    ) as raised:
        report.refuse_leaks()
    assert raised.value.exit_code == 1
    assert raised.value.details == tuple(map(str, report.leaks))
    assert "--allow-leaks" in raised.value.next_step


def test_leaks_that_are_allowed_are_recorded_and_warned_of():
    report = check(GOOD, copies=[[0, 60]], allow_leaks=True)
    report.refuse_leaks()
    assert report.as_json()["leaks_allowed"] is True
    assert report.as_json()["leaks"]["n"] == 1
    assert "pixel-equal" in report.warnings[0]


def test_copy_that_is_left_out_is_no_leak():
    pictures = [*GOOD, ("dog/left.png", UNUSED)]
    report = check(pictures, copies=[[140, 0, 1]], near=[(140, 0, 1.0)])
    assert (report.leaks, report.near, report.n_copies) == ((), (), 1)


def test_near_pairs_are_listed_and_warned_of_but_not_refused():
    report = check(GOOD, near=[(0, 60, 0), (0, 1, 0), (5, 75, 2.5)])
    assert [str(one) for one in report.near] == [
        "cat/0.png (train, cat) ~ cat/60.png (test, cat)",
        "cat/5.png (train, cat) ~ dog/5.png (train, dog)",
    ]
    assert "near-duplicates in two splits or of two labels: 2" in report.warnings[0]
    report.refuse_leaks()


def test_listed_pictures_that_are_gone_are_counted():
    report = check(GOOD, n_gone=1234)
    assert report.n_gone == 1234
    assert "any more: 1,234" in report.warnings[0]


def test_lists_are_cut_for_people_and_whole_in_json_up_to_a_number(monkeypatch):
    monkeypatch.setattr(checks, "MAX_LISTED", 25)
    left_out = [LeftOut(f"{at}\n\udcff.png", "why") for at in range(30)]
    classes = [
        one for at in range(14) for one in of(f"class {at:02}", train=1, validation=1, test=1)
    ]
    report = check(classes, left_out=left_out)
    lines = report.lines()
    assert "left out (30, the first 10):" in lines
    assert "and 4 more" in lines
    assert "class 09" in "\n".join(lines)
    assert "class 10" not in "\n".join(lines[:16])
    document = json.loads(json.dumps(report.as_json()))
    assert (document["left_out"]["n"], len(document["left_out"]["listed"])) == (30, 25)
    assert document["left_out"]["listed"][0] == {"path": "0\n\udcff.png", "reason": "why"}
    assert len(document["classes"]) == 14
