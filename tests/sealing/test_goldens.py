from dataclasses import replace

import numpy as np
import pytest

from convnet_edge.runtime.pictures import preprocess
from convnet_edge.sealing import goldens


def units(n_images, *active):
    """Return (N, 6) bool: the units that each image activates; an image not given, none."""
    made = np.zeros((n_images, 6), bool)
    for image, chosen in active:
        made[image, chosen] = True
    return made


RANDOM_FIRST = np.zeros((3, 8, 8), np.uint8)
RANDOM_FIRST[0] = np.arange(64).reshape(8, 8)
ADDING = units(5, (1, [0, 1, 2]), (2, [0, 1, 2]), (3, [3, 4]), (4, [5]))  # 2 adds nothing after 1


@pytest.mark.parametrize(
    ("labels", "activity", "images", "chosen"),
    [
        ([0, 0, 1, 1, 1], ADDING, np.zeros((5, 4, 4), np.uint8), [1, 3, 4]),
        ([0, 0, 0], units(3, (0, 0), (1, 0), (2, 0)), RANDOM_FIRST, [1]),
        ([0, 2], np.eye(2, dtype=bool), np.zeros((2, 4, 4), np.uint8), [0, 1]),
        ([0, 0, 1], np.zeros((3, 0), bool), RANDOM_FIRST, [1, 2]),
        ([0] * 40, np.eye(40, dtype=bool), np.zeros((40, 4, 4), np.uint8), [*range(16)]),
        ([*range(5)], np.eye(5, dtype=bool), np.zeros((5, 512, 512), np.uint8), [*range(4)]),
    ],
    ids=[
        "of most use",
        "of equals the one that compresses best",
        "a class has no image",
        "no unit is known",
        "limit",
        "as many as a device admits",
    ],
)
def test_choose_goldens_covers_classes_and_units(labels, activity, images, chosen):
    labels = np.array(labels)
    found = goldens.choose_goldens(labels, activity, images, n_classes=labels.max() + 1)
    assert found.tolist() == chosen


def test_sample_pictures_show_their_images_and_exercise_each_step(test_set):
    images, how = test_set.images, preprocess.FASHION_MNIST
    grey = replace(how, background="keep")
    shown = (
        np.pad(images[0], ((3, 3), (9, 5))),
        np.pad(images[1], 2),
        np.pad(images[2], ((7, 7), (1, 2))),
    )
    for (name, encoded), image in zip(goldens.make_pictures(images).items(), shown, strict=True):
        found = preprocess.decode_picture(encoded, grey)
        expected = preprocess.decode_picture(image, grey, invert=False).pixels
        assert found.is_inverted, name
        assert np.corrcoef(found.pixels.ravel(), expected.ravel())[0, 1] > 0.98, name
        assert preprocess.decode_picture(encoded, how).unevenness is not None, name


@pytest.mark.parametrize("size", [(12, 10), (10, 12), (40, 40)])
def test_sample_pictures_of_colours_show_their_images(size):
    """One image is enough: it then stands in all three."""
    how = preprocess.Preprocessing(size, 3, fit="pad", filter="area")
    image = np.full((*size, 3), (200, 90, 20), np.uint8)
    image[: size[0] // 2, : size[1] // 2] = (10, 60, 190)
    made = goldens.make_pictures(image[None])
    edges = {
        "landscape.png": ((3, 3), (size[1] // 3, size[1] // 2 - size[1] // 3)),
        "turned.jpg": ((2, 2), (2, 2)),
        "transparent.png": ((7, 7), (1, 2)),
    }
    for name, encoded in made.items():
        pixels = preprocess.decode_picture(encoded, how).pixels
        white = np.pad(image, (*edges[name], (0, 0)), constant_values=255)
        if name == "transparent.png":
            alpha = np.pad(image.max(axis=2, keepdims=True), (*edges[name], (0, 0))) / 255
            white = np.round(255 + (white - 255.0) * alpha).astype(np.uint8)
        elif name == "landscape.png":
            white[..., 2] = np.maximum(white[..., 2], 64)
        expected = preprocess.decode_picture(white, how).pixels
        assert pixels.shape == (*size, 3)
        assert np.abs(pixels.astype(int) - expected).mean() < 5, name
        assert len(np.unique(pixels)) > 5
