from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from faults import change_document
from PIL import Image

from convnet_edge.runtime import Classifier, InputError


@pytest.fixture(scope="module")
def classifier(model_bytes):
    return Classifier(model_bytes)


def test_predictions_agree_with_pytorch(classifier, reference, test_set):
    predictions = classifier(test_set.images[:500])
    np.testing.assert_allclose(
        predictions.logits, reference.logits[:500], atol=reference.tolerance, rtol=0
    )
    np.testing.assert_array_equal(predictions.labels, reference.logits[:500].argmax(axis=1))
    exact = np.exp(reference.logits[:500])
    np.testing.assert_allclose(
        predictions.probabilities, exact / exact.sum(axis=1, keepdims=True), atol=1e-5
    )


def test_names_and_top_follow_the_probabilities(classifier, test_set):
    predictions = classifier(test_set.images[:20])
    for name, row, label, best in zip(
        predictions.names, predictions.probabilities, predictions.labels, predictions.top(3),
        strict=True,
    ):  # fmt: skip
        assert best[0] == (name, float(row[label]))
        assert [share for _, share in best] == sorted(row, reverse=True)[:3]


def test_huge_logits_do_not_overflow(classifier, test_set, monkeypatch):
    monkeypatch.setattr(classifier, "logits", lambda _: np.array([[1000.0, 0, -1000]], np.float32))
    assert classifier(test_set.images[:1]).probabilities.tolist() == [[1, 0, 0]]


def test_paths_are_preprocessed(classifier, test_set, tmp_path):
    paths = []
    for index, image in enumerate(test_set.images[:3]):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(image).save(paths[-1])
    from_files, from_arrays = classifier(paths), classifier(test_set.images[:3])
    np.testing.assert_array_equal(from_files.labels, from_arrays.labels)
    np.testing.assert_allclose(from_files.logits, from_arrays.logits, atol=1e-4)


def test_one_image_and_none(classifier, test_set):
    assert classifier(test_set.images[0]).logits.shape == (1, 10)
    assert classifier(test_set.images[:0]).logits.shape == (0, 10)
    assert classifier([]).names == []


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 28, 28), np.float32),
        np.zeros((2, 27, 28), np.uint8),
        np.zeros((2, 1, 28, 28), np.uint8),
        np.zeros(28, np.uint8),
    ],
)
def test_wrong_arrays_are_refused_with_what_is_expected(classifier, images):
    with pytest.raises(InputError, match=r"\(N, 28, 28\) uint8"):
        classifier(images)


def test_many_threads_get_the_same_answers(classifier, test_set):
    parts = [test_set.images[i : i + 50] for i in range(0, 800, 50)]
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(classifier, parts))
    for part, answer in zip(parts, threaded, strict=True):
        np.testing.assert_array_equal(answer.logits, classifier(part).logits)


def test_contract_that_names_another_input_is_refused(model_bytes):
    def rename(document):
        document["input"]["name"] = "pixels"

    with pytest.raises(InputError, match="contract says float32 'pixels'"):
        Classifier(change_document(model_bytes, rename))


def test_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Classifier(tmp_path / "absent.onnx")
