import numpy as np
import pytest
import tiny
from PIL import Image

from convnet_edge.runtime import preprocess
from convnet_edge.runtime.errors import InputError
from convnet_edge.sealing import goldens, parity, seal


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
        ([0] * 40, np.eye(40, dtype=bool), np.zeros((40, 4, 4), np.uint8), [*range(16)]),
    ],
    ids=["of most use", "of equals the one that compresses best", "a class has no image", "limit"],
)
def test_choose_goldens_covers_classes_and_units(labels, activity, images, chosen):
    labels = np.array(labels)
    found = goldens.choose_goldens(labels, activity, images, n_classes=labels.max() + 1)
    assert found.tolist() == chosen


def test_sample_pictures_show_their_images(test_set):
    images = test_set.images
    shown = (
        np.pad(images[0], ((3, 3), (9, 5))), images[1], np.pad(images[2], ((7, 7), (1, 2)))
    )  # fmt: skip
    for (name, encoded), grey in zip(goldens.make_pictures(images).items(), shown, strict=True):
        pixels = preprocess.decode_picture(encoded, (28, 28))
        expected = preprocess.fit(Image.fromarray(grey), (28, 28), invert=False)
        assert np.corrcoef(pixels.ravel(), expected.ravel())[0, 1] > 0.98, name


def test_golden_image_that_is_no_test_image_is_an_input_error():
    test = tiny.image_set(tiny.N_MEASURED)
    reference = parity.Reference(test.images, tiny.logits(test.images), tiny.FLOOR)
    with pytest.raises(InputError, match="golden vectors of image 60"):
        seal.describe_proof("", reference, test, np.array([0, 60]), tiny.LABELS)
