from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny

from convnet_edge.runtime import Classifier, InputError
from convnet_edge.runtime.model_file import open_model
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
    for model in (tiny_model, str(tiny_model), open_model(tiny_model), tiny.grey()):
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


def test_one_image_and_none(classifier):
    assert classifier(IMAGES[0]).logits.shape == (1, 3)
    assert classifier(IMAGES[:0]).logits.shape == (0, 3)
    assert classifier([]).names == []


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8), np.float32),
        np.zeros((2, 7, 8), np.uint8),
        np.zeros((2, 1, 8, 8), np.uint8),
        np.zeros(8, np.uint8),
    ],
)
def test_wrong_arrays_are_refused_with_what_is_expected(classifier, images):
    with pytest.raises(InputError, match=r"\(N, 8, 8\) uint8"):
        classifier(images)


def test_many_threads_get_the_same_answers(classifier):
    images = tiny.images(800)
    parts = [images[i : i + 50] for i in range(0, 800, 50)]
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(classifier, parts))
    for part, answer in zip(parts, threaded, strict=True):
        np.testing.assert_array_equal(answer.logits, classifier(part).logits)
