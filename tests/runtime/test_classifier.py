import contextlib
import io
import os
from concurrent.futures import ThreadPoolExecutor

import faults
import numpy as np
import pytest
import tiny
from PIL import Image

from convnet_edge.runtime import Classifier, InputError
from convnet_edge.runtime.model_file import open_model
from convnet_edge.runtime.pictures import preprocess
from convnet_edge.runtime.pictures.preprocess import Prepared
from convnet_edge.runtime.session import Settings

IMAGES = tiny.images(60)


@pytest.fixture(scope="module")
def classifier():
    return Classifier(tiny.grey())


@pytest.mark.parametrize("make", [tiny.grey, tiny.grey_uint8])
@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_logits_agree_with_slow_arithmetic_at_any_batch_size(make, batch_size):
    found = Classifier(make()).logits(IMAGES, batch_size=batch_size)
    assert np.abs(found - tiny.logits(IMAGES)).max() <= tiny.TOLERANCE


def test_predictions_follow_from_the_logits(classifier):
    predictions, exact = classifier(IMAGES), tiny.logits(IMAGES)
    np.testing.assert_array_equal(predictions.labels, exact.argmax(axis=1))
    shares = np.exp(exact) / np.exp(exact).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predictions.probabilities, shares, atol=1e-5)


def test_path_bytes_and_a_file_already_read_are_the_same_model(classifier, tiny_model):
    expected = classifier(IMAGES).logits
    content = tiny.grey()
    for model in (tiny_model, str(tiny_model), open_model(tiny_model), content,
                  bytearray(content), memoryview(content)):  # fmt: skip
        opened = Classifier(model, threads=classifier.session.threads)
        np.testing.assert_array_equal(opened(IMAGES).logits, expected)
    file = open_model(tiny_model)
    assert Classifier(file).file is file


def test_settings_decide_if_given():
    opened = Classifier(tiny.grey(), "cuda", 7, settings=Settings(threads=1, spin=False))
    assert (opened.session.provider, opened.session.threads) == ("cpu", 1)
    assert opened.session.settings.spin is False


def test_names_and_top_follow_the_probabilities(classifier):
    predictions = classifier(IMAGES[:20])
    for name, row, label, best in zip(
        predictions.names, predictions.probabilities, predictions.labels, predictions.top(2),
        strict=True,
    ):  # fmt: skip
        assert best[0] == (name, float(row[label]))
        assert [share for _, share in best] == sorted(row, reverse=True)[:2]


def test_answer_below_the_threshold_is_unsure(classifier):
    shares = classifier(IMAGES).probabilities.max(axis=1)
    threshold = float(np.median(shares))
    strict = Classifier(faults.decide(tiny.grey(), threshold=threshold), threads=1)
    for given in (IMAGES, list(IMAGES)):
        found = strict(given)
        np.testing.assert_array_equal(found.unsure, found.probabilities.max(axis=1) < threshold)
        assert 0 < found.unsure.sum() < len(IMAGES)
        assert found.names == classifier(IMAGES).names  # it still says which
    assert not classifier(IMAGES).unsure.any()
    first = int(np.flatnonzero(found.unsure)[0])
    assert repr(strict(IMAGES[first])).startswith("Predictions(1 image: not sure: ")
    assert "not sure" not in repr(classifier(IMAGES[first]))
    assert strict([]).unsure.tolist() == []


def test_picture_more_uneven_than_the_decision_takes_is_unsure():
    model = Classifier(faults.decide(tiny.grey(), max_unevenness=0.2), threads=1)
    pictures = [Prepared(IMAGES[0], False, found) for found in (None, 0.0, 0.2, 0.3)]
    assert model.answer(pictures).unsure.tolist() == [False, False, False, True]
    assert not model(IMAGES).unsure.any()  # pixels have no background
    both = Classifier(faults.decide(tiny.grey(), max_unevenness=0.2, threshold=1.0), threads=1)
    assert both.answer(pictures).unsure.all()
    assert not Classifier(faults.decide(tiny.grey())).answer(pictures).unsure.any()


def test_huge_logits_do_not_overflow(classifier, monkeypatch):
    monkeypatch.setattr(classifier, "logits", lambda _: np.array([[1000.0, 0, -1000]], np.float32))
    assert classifier(IMAGES[:1]).probabilities.tolist() == [[1, 0, 0]]


def test_paths_are_preprocessed(classifier, tmp_path):
    paths = []
    for index, picture in enumerate(classifier.contract.samples):
        paths.append(tmp_path / f"{index}.png")
        paths[-1].write_bytes(picture.encoded)
    expected = classifier(np.stack([picture.pixels for picture in classifier.contract.samples]))
    np.testing.assert_array_equal(classifier(paths).logits, expected.logits)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png"):
        classifier([*paths, tmp_path / "broken.png"])


class Odd:
    """What says that it is a path or a file, and gives anything."""

    read = None

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


def in_every_way(path):
    """Return one RGB picture file as everything that a program may hold of it."""
    with Image.open(path) as picture:
        decoded = picture.copy()
    return {
        "text": str(path), "path": path, "bytes": path.read_bytes(), "open file": path.open("rb"),
        "BytesIO": io.BytesIO(path.read_bytes()), "PIL": decoded, "array": np.asarray(decoded),
        "RGBA": np.asarray(decoded.convert("RGBA")), "list": [path],
        "bytearray": bytearray(path.read_bytes()), "view": memoryview(path.read_bytes()),
        "path in bytes": Odd(os.fsencode(path)), "iterable": iter([str(path)]),
        "list of arrays": [np.asarray(decoded)],
    }  # fmt: skip


def test_one_picture_gets_one_answer_whichever_way_it_comes(classifier, tmp_path):
    sample = classifier.contract.samples[0]
    path = tmp_path / sample.name
    path.write_bytes(sample.encoded)
    expected = classifier(sample.pixels).logits
    for way, given in in_every_way(path).items():
        with given if way == "open file" else contextlib.nullcontext():
            np.testing.assert_array_equal(classifier(given).logits, expected, err_msg=way)


def test_a_list_may_mix_ways_and_sizes_and_exact_arrays_are_pixels(classifier, tmp_path):
    large = 255 - IMAGES[1].repeat(5, axis=0).repeat(5, axis=1)  # dark on light: inverted
    path = tmp_path / "x.png"
    Image.fromarray(large).save(path)
    bright = np.full((8, 8), 200, np.uint8)  # of the model's size: not inverted
    found = classifier([bright, large, path, np.dstack([large] * 3)])
    prepared = preprocess.to_pixels(path, classifier.contract.preprocessing)
    expected = classifier(np.stack([bright, *[prepared.pixels] * 3]))
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-6)
    three = IMAGES[:3]  # (3, 8, 8) are three images, (8, 8, 3) is one
    assert len(classifier(three).labels) == 3
    assert len(classifier(np.ascontiguousarray(three.transpose(1, 2, 0))).labels) == 1


def closed_file():
    file = io.BytesIO()
    file.close()
    return file


WANTED = r"; expected \(N, 8, 8\) uint8"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (3, "the picture is of type int"),
        (None, "the picture is of type NoneType"),
        (Odd(3), "the picture is of type Odd"),
        ([IMAGES[0], 3.5], r"images\[1\] is of type float"),
        ([[1, 2]], r"images\[0\] is of type list"),
        ([IMAGES[:2]], r"images\[0\] is an array of shape \(2, 8, 8\)"),
        ([IMAGES[0].astype(np.float32)], r"images\[0\] is an array .* float32"),
        (io.StringIO("text"), "the picture is a file open for text"),
        (closed_file(), "the picture is a file that cannot be read: I/O operation on closed file"),
        ([b"", b""], r"images\[0\] is not a picture"),
        (np.zeros((0, 5), np.uint8), r"of shape \(0, 5\)"),
        (Image.new("L", (0, 5)), "no pixels"),
        (np.zeros((2, 8, 8), np.float32), r"shape \(2, 8, 8\) and type float32" + WANTED),
        (np.zeros((2, 7, 8), np.uint8), r"shape \(2, 7, 8\) and type uint8" + WANTED),
        (np.zeros((2, 1, 8, 8), np.uint8), r"shape \(2, 1, 8, 8\) and type uint8" + WANTED),
        (np.zeros(8, np.uint8), r"shape \(8,\) and type uint8" + WANTED),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_what_is_no_picture_is_one_error_that_names_it_and_its_place(classifier, given, found):
    with pytest.raises(InputError, match=found):
        classifier(given)


@pytest.mark.parametrize("model", [None, 3, ["a.onnx"], Odd(3)])
def test_a_model_of_another_type_is_one_error(model):
    with pytest.raises(InputError, match=f"a model of type {type(model).__name__}"):
        Classifier(model)


@pytest.mark.parametrize(
    ("settings", "found"),
    [({"threads": 2**31}, "threads=2147483648; expected a whole number from 1 to 4,096"),
     ({"threads": 1.5}, "threads=1.5"), ({"threads": np.nan}, "threads=nan"),
     ({"threads": "2"}, "threads='2'"), ({"provider": None}, "provider=None; expected text"),
     ({"provider": 3}, "provider=3"), ({"threads": 4096}, "4096 threads; expected at most")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_one_error(monkeypatch, settings, found):
    monkeypatch.setattr("convnet_edge.runtime.measure.machine.usable_cores", lambda: 2)
    with pytest.raises(InputError) as caught:
        Classifier(tiny.grey(), **settings)
    assert str(caught.value).startswith(found)


def test_larger_images_run_in_smaller_batches(classifier, monkeypatch):
    ran, run = [], classifier.session.run
    monkeypatch.setattr(classifier.session, "run", lambda one: ran.append(len(one)) or run(one))
    expected = classifier.logits(IMAGES[:7], batch_size=7)
    for n_pixels in (3 * 8 * 8, 1):
        monkeypatch.setattr("convnet_edge.runtime.classifier.RUN_BATCH_PIXELS", n_pixels)
        assert np.abs(classifier.logits(IMAGES[:7]) - expected).max() <= tiny.TOLERANCE
    assert ran == [7, 3, 3, 1, *[1] * 7]


@pytest.mark.parametrize("count", [0, -1, "a", 1.5])
def test_counts_that_are_none_are_one_error(classifier, count):
    with pytest.raises(InputError, match=f"batch_size={count!r}; expected a whole number from 1"):
        classifier.logits(IMAGES, batch_size=count)
    with pytest.raises(InputError, match=f"k={count!r}; expected a whole number from 1"):
        classifier(IMAGES).top(count)


def test_reprs_say_what_they_are(tiny_model):
    opened = Classifier(tiny_model, threads=2)
    assert repr(opened) == "Classifier(tiny.onnx: 3 classes, 8 x 8 grey, cpu, 2 threads)"
    assert repr(Classifier(tiny.grey(), threads=1)).startswith("Classifier(tiny: 3 classes")
    (name, share), *_ = opened(IMAGES[0]).top(1)[0]
    assert repr(opened(IMAGES[0])) == f"Predictions(1 image: {name} {share:.0%})"
    assert repr(opened(IMAGES[:5])).startswith("Predictions(5 images: ")
    assert repr(opened(IMAGES[:5])).count("%") == 3
    assert repr(opened([])) == "Predictions(0 images: none)"


def test_one_image_and_none(classifier):
    assert classifier(IMAGES[0]).logits.shape == (1, 3)
    assert classifier(IMAGES[:0]).logits.shape == (0, 3)
    assert classifier([]).names == []


def test_many_threads_get_the_same_answers(classifier):
    images = tiny.images(800)
    parts = [images[i : i + 50] for i in range(0, 800, 50)]
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(classifier, parts))
    for part, answer in zip(parts, threaded, strict=True):
        np.testing.assert_array_equal(answer.logits, classifier(part).logits)
