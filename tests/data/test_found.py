"""The test images of a model are found again by their digest, or named."""

import os
from dataclasses import replace

import numpy as np
import pytest
import tiny
from PIL import Image

from convnet_edge.data import dataset, fashion_mnist
from convnet_edge.data.options import DataOptions, PreparationOptions
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.measure.accuracy import digest
from convnet_edge.runtime.model_file import open_model
from convnet_edge.sealing.default_model import shipped_model

SHIPPED = dataset.Task.of(open_model(shipped_model()).contract)
OTHER = replace(SHIPPED, test_sha256="ab" * 32)


def test_shipped_model_finds_the_embedded_test_images(test_set):
    found = dataset.require_test_set(SHIPPED, DataOptions())
    assert found.sha256 == SHIPPED.test_sha256 == test_set.sha256
    assert found.images.shape == (10_000, *SHIPPED.preprocessing.shape)


def test_images_of_another_digest_are_none_unless_named(test_set):
    assert dataset.find_test_set(OTHER, DataOptions()) is None
    assert (
        dataset.find_test_set(dataset.Task.of(open_model(tiny.grey()).contract), DataOptions())
        is None
    )
    with pytest.raises(
        InputError, match=r"sha256 abababababababab…\) are not here; .*name it with data"
    ):
        dataset.require_test_set(OTHER, DataOptions())
    assert dataset.require_test_set(OTHER, DataOptions(data="sample")).sha256 == test_set.sha256


def test_share_of_training_images_is_held_out_again_but_no_count_of_them():
    said = SHIPPED.preprocessing.document()
    stated = {"class_labels": ["a", "b"], "preprocessing": said, "test": None}
    for held_out, expected in ((None, False), ("t", False), ("v", True)):
        training = {"data": "photos/", "train_sha256": "t", "validation_sha256": held_out}
        assert dataset.Task.read({**stated, "training": training}).is_validated == expected


def drawn(folder, n, seed=0, size=(9, 9)):
    """Add n pictures of noise to each of two classes; return the folder."""
    for at, label in enumerate("ab"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for index in range(n):
            pixels = np.random.default_rng([at, seed, index]).integers(0, 256, size, np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{seed}-{index}.bmp")
    return folder


def task_of(loaded):
    return dataset.Task(
        loaded.class_labels, loaded.preprocessing, loaded.source, loaded.test.sha256
    )


def test_folder_that_has_grown_is_not_scored_unless_the_list_is_named(tmp_path):
    options = PreparationOptions(data=str(drawn(tmp_path / "own", 60)), cache=tmp_path / "cache")
    task = task_of(dataset.load(options))
    named = DataOptions(data=options.data, cache=options.cache)
    assert dataset.require_test_set(task, named).sha256 == task.test_sha256
    drawn(tmp_path / "own", 40, seed=1)
    with pytest.raises(InputError, match=r"not as it was: .*other pictures are its test") as told:
        dataset.require_test_set(task, named)
    assert "split.json" in told.value.next_step
    assert dataset.require_test_set(task, DataOptions(cache=options.cache)).sha256 == (
        task.test_sha256
    )


def test_refusal_of_pictures_names_what_is_wrong_and_what_helps_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = drawn(tmp_path / "own", 40)
    options = PreparationOptions(data=str(folder), cache=tmp_path / "cache")
    task = task_of(dataset.load(options))
    with pytest.raises(InputError) as untold:
        dataset.load_again(task, DataOptions(cache=options.cache))
    assert untold.value.next_step == "add --data own/"
    drawn(folder, 20, seed=1)
    named = DataOptions(data=options.data, cache=options.cache)
    with pytest.raises(InputError) as for_training:
        dataset.load_again(task, named)
    assert for_training.value.next_step.endswith("(the NAME.split.json that train wrote)")
    (folder / "b").rename(folder / "c")
    for load in (dataset.load_again, dataset.find_test_set):
        with pytest.raises(InputError, match="the model does not know: c"):
            load(task, named)


def test_source_without_test_pictures_says_so_when_some_are_needed():
    with pytest.raises(InputError, match="had no test picture when this was trained"):
        dataset.require_test_set(replace(SHIPPED, test_sha256=""), DataOptions())


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({(8, 8)}, (16, 16)),
        ({(20, 30)}, (20, 30)),
        ({(97, 97)}, (64, 64)),
        ({(8, 8), (9, 9)}, (16, 16)),
        ({(40, 40), (41, 30)}, (41, 41)),
        ({(400, 300), (41, 30)}, (64, 64)),
    ],
    ids=str,
)
def test_size_is_the_pictures_own_within_what_a_network_can_take(tmp_path, sizes, expected):
    for seed, size in enumerate(sizes):
        drawn(tmp_path / "own", 15, seed, size)
    options = PreparationOptions(data=str(tmp_path / "own"), cache=tmp_path / "cache")
    assert dataset.load(options).preprocessing.size == expected


def test_validation_beside_train_alone_is_the_test(tmp_path):
    for seed, part in enumerate(("train", "val")):
        drawn(tmp_path / "own" / part, 12, seed)
    options = PreparationOptions(data=str(tmp_path / "own"), cache=tmp_path / "cache")
    loaded = dataset.load(options)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (24, 0, 24)


def test_pipe_among_pictures_is_left_out_and_waited_for_by_nobody(tmp_path):
    folder = drawn(tmp_path / "own", 12)
    os.mkfifo(folder / "a" / "pipe.png")
    options = PreparationOptions(data=str(folder), cache=tmp_path / "cache")
    (left_out,) = dataset.examine(options).report.left_out
    assert (left_out.path, left_out.reason) == ("a/pipe.png", "not a regular file")


def test_counted_validation_images_are_held_out_whatever_share_a_recipe_wants(tmp_path):
    for seed, (part, n) in enumerate((("train", 20), ("test", 5))):
        drawn(tmp_path / "own" / part, n, seed)
    options = PreparationOptions(data=str(tmp_path / "own"), cache=tmp_path / "cache")
    loaded = dataset.load(options, validate=7, validate_share=0.5)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (33, 7, 10)
    assert {*loaded.train.paths}.isdisjoint(loaded.validation.paths)
    assert 7 < len(dataset.load(options, validate_share=0.5).validation) < 33
    assert len(dataset.load(options, validate=0, validate_share=0.5).validation) == 0
    sample = PreparationOptions(data="sample")
    assert len(dataset.load(sample, validate=0, validate_share=0.1).validation) == 0
    assert len(dataset.load(sample, validate_share=0.1).validation) == 1000


def test_named_folder_that_lacks_the_pictures_is_an_error(tmp_path):
    options = DataOptions(data="fashion-mnist", data_dir=tmp_path)
    with pytest.raises(InputError, match="holds neither"):
        dataset.find_test_set(SHIPPED, options)


def test_taken_images_keep_labels_paths_and_the_digest_of_the_whole():
    whole = replace(tiny.image_set(5), paths=tuple("abcde"))
    for which, indices in ((slice(1, 3), [1, 2]), ([4, 0], [4, 0])):
        taken = dataset.take(whole, which)
        assert taken.images.tolist() == whole.images[indices].tolist()
        assert taken.labels.tolist() == whole.labels[indices].tolist()
        assert taken.paths == tuple(whole.paths[index] for index in indices)
        assert taken.sha256 == whole.sha256


def test_digest_changes_with_a_picture_a_class_its_name_and_their_order():
    pictures, labels = [b"a" * 32, b"b" * 32, b"c" * 32], tiny.labels(3)
    names = ("x", "y", "z")
    swapped = [pictures[1], pictures[0], pictures[2]]
    found = {
        digest(pictures, labels, names), digest(pictures[:2], labels[:2], names),
        digest(swapped, labels, names), digest(pictures, (labels + 1) % 3, names),
        digest(pictures, labels, ("x2", "y2", "z2")),
    }  # fmt: skip
    assert len(found) == 5
    # classes may be listed in another order
    assert digest(pictures, 2 - labels, names[::-1]) in found


def test_checkpoint_says_where_its_test_images_are(trained, few, on_few):
    from convnet_edge.networks import checkpoint

    _, stored = checkpoint.load_model(trained.checkpoint_path)
    task = dataset.Task.read(stored.header)
    assert (task.class_labels, task.source) == (fashion_mnist.CLASS_LABELS, "sample")
    assert dataset.find_test_set(task, DataOptions()).images is few.images


def test_classes_are_matched_by_name_whatever_their_order(test_set):
    sorted_labels = tuple(sorted(fashion_mnist.CLASS_LABELS))
    task = replace(SHIPPED, class_labels=sorted_labels)
    found = dataset.load_again(task, DataOptions(data="sample"))
    named = [found.class_labels[label] for label in found.test.labels[:50]]
    assert named == [fashion_mnist.CLASS_LABELS[label] for label in test_set.labels[:50]]
    assert found.class_labels == sorted_labels != fashion_mnist.CLASS_LABELS


def test_classes_that_training_was_told_are_those_of_the_test_set_wherever_it_is_found(tmp_path):
    folder, names = drawn(tmp_path / "own", 40), ("b", "none", "a")
    options = PreparationOptions(data=str(folder), cache=tmp_path / "cache")
    plain = dataset.load(options)
    told = dataset.load(options, class_labels=names)
    assert told.class_labels == names
    assert [names[i] for i in told.test.labels] == [
        plain.class_labels[i] for i in plain.test.labels
    ]
    for loaded in (plain, told):
        again = DataOptions(cache=options.cache)
        assert dataset.find_test_set(task_of(loaded), again).labels.tolist() == (
            loaded.test.labels.tolist()
        )
        named = dataset.load_again(task_of(loaded), replace(again, data=str(folder)))
        assert named.test.labels.tolist() == loaded.test.labels.tolist()
    with pytest.raises(InputError, match="classes that are not in classes: a"):
        dataset.load(options, class_labels=("b", "c"))


def test_shipped_pictures_are_found_for_a_model_that_counts_classes_otherwise(test_set):
    reversed_labels = SHIPPED.class_labels[::-1]
    found = dataset.find_test_set(replace(SHIPPED, class_labels=reversed_labels), DataOptions())
    assert (found.labels == 9 - test_set.labels).all()


def test_source_with_other_classes_than_the_models_is_refused():
    task = replace(SHIPPED, class_labels=(*SHIPPED.class_labels[1:], "Hat"))
    with pytest.raises(InputError, match="classes that the model does not know: T-Shirt"):
        dataset.load_again(task, DataOptions(data="sample"))


def test_folder_of_a_known_name_is_not_taken_for_that_set(tmp_path):
    """Or else a model of one's own folder `sample` would be quantised on garments."""
    path = tmp_path / "sample"
    path.mkdir()
    assert dataset._short(str(path)) == "sample/"
    assert dataset._short("sample") == "sample"
