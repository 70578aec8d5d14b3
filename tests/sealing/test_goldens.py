import numpy as np

from convnet_edge.runtime import preprocess
from convnet_edge.sealing import goldens as golden


def test_choose_goldens_takes_the_image_that_adds_most():
    labels = np.array([0, 0, 1, 1, 1])
    activity = np.zeros((5, 6), bool)
    activity[1, :3] = True  # best of class 0
    activity[2, :3] = True  # adds nothing after image 1
    activity[3, 3:5] = True  # best of class 1
    activity[4, 5] = True  # the last unit
    images = np.zeros((5, 4, 4), np.uint8)
    assert golden.choose_goldens(labels, activity, images, n_classes=2).tolist() == [1, 3, 4]


def test_choose_goldens_of_equals_takes_the_image_that_compresses_best():
    images = np.zeros((3, 8, 8), np.uint8)
    images[0] = np.arange(64).reshape(8, 8)
    activity = np.ones((3, 2), bool)
    assert golden.choose_goldens(np.zeros(3, int), activity, images, n_classes=1).tolist() == [1]


def test_choose_goldens_stops_at_its_limit():
    labels = np.zeros(40, int)
    chosen = golden.choose_goldens(
        labels, np.eye(40, dtype=bool), np.zeros((40, 4, 4), np.uint8), n_classes=1
    )
    assert len(chosen) == golden.MAX_GOLDENS == len(set(chosen.tolist()))


def test_choose_goldens_without_a_class_goes_on():
    labels = np.array([0, 2])
    chosen = golden.choose_goldens(
        labels, np.eye(2, dtype=bool), np.zeros((2, 4, 4), np.uint8), n_classes=3
    )
    assert chosen.tolist() == [0, 1]


def test_sample_pictures_show_their_images_and_repeat(test_set):
    samples = golden.make_pictures(test_set.images)
    assert [sample.encoded for sample in samples] == [
        sample.encoded for sample in golden.make_pictures(test_set.images)
    ]
    shown = (
        np.pad(test_set.images[0], ((3, 3), (9, 5))),
        test_set.images[1],
        np.pad(test_set.images[2], ((7, 7), (1, 2))),
    )
    for sample, grey in zip(samples, shown, strict=True):
        pixels = preprocess.decode_picture(sample.encoded, (28, 28))
        np.testing.assert_array_equal(pixels, sample.pixels)
        expected = preprocess.fit(grey.astype(float), (28, 28), invert=False)
        assert np.corrcoef(pixels.ravel(), expected.ravel())[0, 1] > 0.98, sample.name
