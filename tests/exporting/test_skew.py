"""Mistakes in preparing pictures, made on purpose: each does what its name says."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from PIL import Image

from convnet_edge.data import dataset
from convnet_edge.exporting import skew
from convnet_edge.runtime.classifier import Classifier

N = 60
GREY, RGB = tiny.grey(), tiny.rgb()


def measured(model, test):
    return {one.mistake: one for one in skew.measure(Classifier(model), test)}


def saved(folder, images, exif=None):
    """Return an image set whose pictures also lie in files, turned by EXIF if that is given."""
    paths = []
    for number, image in enumerate(images):
        picture, tag = Image.fromarray(image), Image.Exif()
        if exif:  # stored so that turning by 90 degrees clockwise shows the picture
            picture, tag[0x0112] = picture.transpose(Image.Transpose.ROTATE_90), exif
        picture.save(folder / f"{number}.png", exif=tag)
        paths.append(str(folder / f"{number}.png"))
    return paths


def test_each_mistake_is_scored_beside_the_right_way():
    test = tiny.image_set(N)
    found = measured(GREY, test)
    classifier = Classifier(GREY)
    swapped = classifier(255 - test.images).labels
    one = found["light and dark swapped"]
    right = classifier(test.images).labels == test.labels
    assert one.n == N
    assert one.accuracy == (swapped == test.labels).mean()
    assert one.n_lost == (right & (swapped != test.labels)).sum()
    assert one.drop == pytest.approx(right.mean() - one.accuracy)
    assert one.upper_bound > one.drop
    assert "BGR for RGB" not in found  # it has no colours to swap


def test_a_colour_model_meets_the_mistakes_of_colours():
    test = tiny.image_set(N, tiny.RGB)
    found = measured(RGB, test)
    said = Classifier(RGB)(np.ascontiguousarray(test.images[..., ::-1])).labels
    assert found["BGR for RGB"].accuracy == (said == test.labels).mean()
    assert {"channels last for channels first", "[0, 255] for [0, 1]"} <= found.keys()


def test_stored_pixels_meet_no_mistake_of_scale():
    found = measured(tiny.grey_uint8(), tiny.image_set(N))
    assert not {name for name in found if "[" in name or "ImageNet" in name}


def test_without_files_no_other_way_of_reading_them_is_tried(tmp_path):
    test = tiny.image_set(12, tiny.RGB)
    known = measured(RGB, test)
    found = measured(RGB, replace(test, paths=tuple(saved(tmp_path, test.images))))
    of_files = {skew.TURNED, "no antialias", "stretch for pad", "bicubic for area"}
    assert {*found} - {*known} >= of_files


def test_a_turn_that_is_left_out_costs_what_turned_images_cost(tmp_path):
    test = tiny.image_set(30, tiny.RGB)
    turned = replace(test, paths=tuple(saved(tmp_path, test.images, exif=6)))
    found = measured(RGB, turned)[skew.TURNED]
    how = Classifier(RGB).contract.preprocessing
    stored = [Image.open(path).convert("RGB") for path in turned.paths]
    said = Classifier(RGB)([np.asarray(one) for one in stored]).labels
    assert how.size[0] != how.size[1]
    assert found.accuracy == (said == test.labels).mean()


def test_mistakes_that_change_none_of_the_pictures_are_said_to(tmp_path):
    test = tiny.image_set(12)
    found = measured(GREY, replace(test, paths=tuple(saved(tmp_path, test.images))))
    for name in (skew.TURNED, "no antialias", "the middle cut out, not resized"):
        assert (found[name].n_changed, found[name].n_lost, found[name].n_gained) == (0, 0, 0)
    assert found["light and dark swapped"].n_changed == 12
    last = skew.table(tuple(found.values())).rows[-1]
    assert last[1] == "changes none of these"


def test_picture_that_is_made_larger_has_nothing_to_alias(tmp_path):
    test = tiny.image_set(12, tiny.RGB)
    half = [np.ascontiguousarray(image[::2, ::2]) for image in test.images]
    found = measured(RGB, replace(test, paths=tuple(saved(tmp_path, half))))
    as_it_is = found[skew.TURNED]  # but half of each picture's pixels
    assert replace(found["no antialias"], mistake=skew.TURNED) == as_it_is


def test_many_images_are_sampled_over_the_whole_set(monkeypatch):
    monkeypatch.setattr(skew, "MAX_IMAGES", 10)
    assert {one.n for one in skew.measure(Classifier(GREY), tiny.image_set(N))} == {10}


def test_table_names_the_costliest_first():
    rows = skew.table(tuple(measured(GREY, tiny.image_set(N)).values())).rows
    lost = [float(row[2]) for row in rows]
    assert lost == sorted(lost, reverse=True)


def test_verify_skew_prints_and_stores_the_table(run, tiny_model, monkeypatch):
    monkeypatch.setattr(dataset, "find_test_set", lambda *_: tiny.image_set(N))
    result = run("verify", tiny_model, "--skew")
    assert result.exit_code == 0, result.output
    assert "light and dark swapped" in result.output
    assert '"mistake"' in tiny_model.with_suffix(".verify.json").read_text()


def test_skew_without_test_images_says_where_from(run, tiny_model):
    result = run("verify", tiny_model, "--skew")
    assert result.exit_code == 2
    assert "--data" in result.stderr
