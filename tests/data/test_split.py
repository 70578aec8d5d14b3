import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from convnet_edge.data.scan import Entry
from convnet_edge.data.split import TEST, TRAIN, UNUSED, VALIDATION, read_split, split, write_split
from convnet_edge.runtime.errors import InputError

N = 2_000


def digests_of(n, name="picture"):
    found = b"".join(hashlib.sha256(f"{name} {at}".encode()).digest() for at in range(n))
    return np.frombuffer(found, np.uint8).reshape(n, 32)


def with_shares(*shares):
    """Digests whose first bytes are these shares of all that there are; the others say which."""
    found = np.zeros((len(shares), 32), np.uint8)
    found[:, -1] = np.arange(len(shares))
    found[:, :8] = (
        np.array([int(one * 2**64) for one in shares], ">u8").view(np.uint8).reshape(-1, 8)
    )
    return found


def parts_of(digests, *, groups=None, labels=None, **more):
    n = len(digests)
    groups = np.arange(n) if groups is None else np.array(groups)
    labels = np.zeros(n, int) if labels is None else np.array(labels)
    given = {"published": None, "validate_share": 0.0, "listed": {}} | more
    return split(digests, labels, groups, **given)


def slow_part(digest):
    share = int.from_bytes(digest[:8], "big") / 2**64
    return TEST if share < 0.1 else VALIDATION if share < 0.2 else TRAIN


def test_split_without_published_ones_is_80_10_10_by_each_digest_alone():
    digests = digests_of(N)
    found = parts_of(digests)
    assert found.tolist() == [slow_part(one.tobytes()) for one in digests]
    assert np.abs(np.bincount(found) / N - (0.8, 0.1, 0.1)).max() < 0.03


def test_picture_keeps_its_part_whatever_comes_beside_it():
    digests = digests_of(N)
    order = np.random.default_rng(0).permutation(N)[:700]
    assert (parts_of(digests[order]) == parts_of(digests)[order]).all()


def test_group_follows_its_smallest_digest():
    digests, groups = digests_of(N), np.random.default_rng(0).integers(10**6, 10**6 + 900, N)
    found = parts_of(digests, groups=groups)
    for group in np.unique(groups):
        inside = np.flatnonzero(groups == group)
        smallest = min(digests[at].tobytes() for at in inside)
        assert set(found[inside].tolist()) == {slow_part(smallest)}


def test_class_that_would_not_be_trained_keeps_the_group_of_its_largest_digest():
    digests = with_shares(0.01, 0.15, 0.12, 0.19, 0.5)
    found = parts_of(digests, groups=[0, 1, 2, 1, 3], labels=[0, 0, 0, 0, 1])
    # by their smallest digests the groups are 0.01, 0.15 (with 0.19) and 0.12
    assert found.tolist() == [TEST, TRAIN, VALIDATION, TRAIN, TRAIN]


def test_published_splits_are_never_changed():
    digests = with_shares(0.3, 0.01, 0.4, 0.05, 0.6, 0.02)
    published = np.array([TEST, TRAIN, VALIDATION, TRAIN, TEST, TRAIN])
    for listed in ({}, {one.tobytes(): TRAIN for one in digests}):
        found = parts_of(digests, published=published, validate_share=0.9, listed=listed)
        assert (found == published).all()


def test_list_makes_no_test_picture_of_a_published_training_picture():
    digests, published = with_shares(0.5, 0.6, 0.7), np.array([TRAIN, TRAIN, TEST])
    listed = {digests[0].tobytes(): TEST, digests[1].tobytes(): VALIDATION}
    found = parts_of(digests, published=published, listed=listed)
    assert found.tolist() == [TRAIN, VALIDATION, TEST]


def test_published_test_without_validation_gives_a_share_of_train_by_digest():
    digests = with_shares(0.01, 0.05, 0.15, 0.3, 0.09, 0.5)
    published = np.array([TEST, TRAIN, TRAIN, TRAIN, TRAIN, TRAIN])
    share = {"published": published, "validate_share": 0.1}
    assert parts_of(digests, published=published).tolist() == published.tolist()
    expected = [TEST, VALIDATION, TRAIN, TRAIN, VALIDATION, TRAIN]
    assert parts_of(digests, **share).tolist() == expected
    # near the published test picture: its digest does not count
    found = parts_of(digests, groups=[0, 1, 0, 2, 2, 3], **share)
    assert found.tolist() == [TEST, VALIDATION, TRAIN, VALIDATION, VALIDATION, TRAIN]


def test_list_wins_and_new_pictures_join_the_side_of_those_they_are_near():
    digests = with_shares(0.5, 0.6, 0.01, 0.7, 0.02)
    listed = {digests[0].tobytes(): TEST, digests[2].tobytes(): TRAIN}
    found = parts_of(digests, groups=[0, 0, 1, 2, 1], listed=listed)
    assert found.tolist() == [TEST, TEST, TRAIN, TRAIN, TRAIN]


def test_new_picture_near_listed_ones_of_two_sides_is_left_out_and_named():
    digests = with_shares(0.5, 0.6, 0.7, 0.8)
    listed = {digests[0].tobytes(): TEST, digests[1].tobytes(): TRAIN, bytes(32): TEST}
    found = parts_of(digests, groups=[0, 0, 0, 1], listed=listed)
    assert found.tolist() == [TEST, TRAIN, UNUSED, TRAIN]


def test_list_of_other_pictures_is_refused():
    with pytest.raises(InputError, match="none of the 3 pictures listed for split is here"):
        parts_of(digests_of(9), listed={one.tobytes(): TEST for one in digests_of(3, "other")})


def test_split_of_nothing_is_empty():
    assert len(parts_of(digests_of(0))) == 0


def write(tmp_path, digests, parts):
    folder = tmp_path / "photos"
    folder.mkdir(exist_ok=True)
    names = [f"cat/{at}.png" for at in range(len(digests) - 1)] + [os.fsdecode(b"cat/\xff\n.png")]
    entries = [Entry(str(Path(folder, name)), "cat", None) for name in names]
    path = tmp_path / "own.split.json"
    write_split(path, str(folder), entries=entries, digests=digests, parts=parts)
    return path


def test_split_that_is_written_is_read_again_and_gives_itself(tmp_path):
    digests = digests_of(50)
    parts = np.random.default_rng(0).integers(UNUSED, 3, 50)
    path = write(tmp_path, digests, parts)
    listed = read_split(path)
    assert listed == {
        one.tobytes(): part for one, part in zip(digests, parts.tolist(), strict=True) if part >= 0
    }
    used = parts != UNUSED
    assert (parts_of(digests[used], listed=listed) == parts[used]).all()
    first = json.loads(path.read_bytes())["pictures"][digests[int(used.argmax())].tobytes().hex()]
    assert (first["label"], first["path"]) == ("cat", f"cat/{used.argmax()}.png")


DAMAGED = {
    "cut short": lambda text: text[:-9],
    "no JSON": lambda text: "weights",
    "another document": lambda text: '{"schema": 1, "classes": []}',
    "a list": lambda text: "[1]",
    "another schema": lambda text: text.replace('"schema": 1', '"schema": 2'),
    "unknown part": lambda text: text.replace('"train"', '"tset"'),
    "no digest": lambda text: text.replace('"pictures": {', '"pictures": {"cat": {}, '),
    "short digest": lambda text: text.replace('s": {', 's": {"ab": {"part": "test"}, ', 1),
    "no hex": lambda text: text.replace('s": {', f's": {{"{"x" * 64}": {{"part": "test"}}, ', 1),
    "parts that are none": lambda text: text.replace('"train"', "[]"),
    "within each other": lambda text: "[" * 100_000,
    "empty": lambda text: "",
}


@pytest.mark.parametrize("case", DAMAGED)
def test_list_that_is_damaged_or_foreign_is_an_error(tmp_path, case):
    path = write(tmp_path, digests_of(3), np.array([TRAIN, TEST, TRAIN]))
    assert len(read_split(path)) == 3
    path.write_text(DAMAGED[case](path.read_text()))
    with pytest.raises(InputError, match=r"own\.split\.json") as raised:
        read_split(path)
    assert "--split" in raised.value.next_step
