import csv
import io
import json
import re

import faults
import numpy as np
import pytest
import tiny
from PIL import Image

from convnet_edge.predicting import predict as predict_module
from convnet_edge.predicting.options import PredictOptions
from convnet_edge.runtime import Classifier
from convnet_edge.runtime.pictures.preprocess import Prepared
from convnet_edge.sealing.default_model import shipped_model

IMAGES = tiny.images(70)
LONG = "x" * 5000


def predict(model, *images, **options):
    return list(predict_module.predict(PredictOptions(tuple(images), model, **options)))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    for index in range(3):
        Image.fromarray(IMAGES[index]).save(folder / f"{index}.png")
    photo = 255 - IMAGES[3].repeat(8, axis=0).repeat(8, axis=1)
    Image.fromarray(photo).save(folder / "inner" / "photo.jpg", quality=95)
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_predict_answers_every_picture_of_a_folder(pictures, tiny_model):
    answers = predict(tiny_model, pictures, invert=False)
    assert [answer.path.name for answer in answers] == ["0.png", "1.png", "2.png", "photo.jpg"]
    expected = Classifier(tiny_model)(IMAGES[:3])
    assert [answer.label for answer in answers[:3]] == expected.names
    assert dict(answers[0].top) == pytest.approx(dict(expected.top(3)[0]), rel=1e-5)


def test_more_pictures_than_a_batch_keep_their_order(tmp_path, tiny_model):
    n = predict_module.RUN_BATCH_SIZE + 3
    (tmp_path / "many").mkdir()
    for index in range(n):
        Image.fromarray(IMAGES[index]).save(tmp_path / "many" / f"{index:03}.png")
    (tmp_path / "many" / "010.png").write_bytes(b"damaged")
    answers = predict(tiny_model, tmp_path / "many", invert=False)
    expected = Classifier(tiny_model)(IMAGES[:n]).names
    assert "not a picture" in answers[10].error.found
    for index, answer in enumerate(answers):
        assert answer.path.name == f"{index:03}.png"
        assert index == 10 or answer.label == expected[index]


def test_formats_agree(run, pictures, tiny_model):
    command = ("predict", pictures, "--model", tiny_model)
    text = run(*command).stdout
    rows = list(csv.DictReader(io.StringIO(run(*command, "--format", "csv").stdout)))
    lines = run(*command, "--format", "jsonl").stdout.splitlines()
    whole = json.loads(run(*command, "--json").stdout)["predictions"]
    assert [json.loads(line) for line in lines] == whole
    assert [row["label"] for row in rows] == [answer["label"] for answer in whole]
    for answer, row in zip(whole, rows, strict=True):
        assert f"{answer['path']}: {answer['label']}" in text
        assert float(row["probability"]) == pytest.approx(answer["top"][0]["probability"], abs=1e-6)


def test_answers_the_model_does_not_stand_by_are_marked_in_every_format(
    run, pictures, tiny_model, monkeypatch
):
    def decode(data, how, *, name, invert):
        return Prepared(IMAGES[0], False, 0.3 if name.endswith("1.png") else 0.1)

    monkeypatch.setattr(predict_module.preprocess, "decode_picture", decode)
    tiny_model.write_bytes(faults.decide(tiny.grey(), max_unevenness=0.2))
    assert [answer.unsure for answer in predict(tiny_model, pictures)] == [
        False,
        True,
        False,
        False,
    ]
    command = ("predict", pictures, "--model", tiny_model)
    lines = run(*command).stdout.splitlines()
    assert [": not sure: " in line for line in lines] == [False, True, False, False]
    rows = csv.DictReader(io.StringIO(run(*command, "--format", "csv").stdout))
    assert [row["sure"] for row in rows] == ["yes", "no", "yes", "yes"]
    whole = json.loads(run(*command, "--json").stdout)["predictions"]
    assert [answer["sure"] for answer in whole] == [True, False, True, True]
    tiny_model.write_bytes(faults.decide(tiny.grey(), threshold=1.0))
    assert all(answer.unsure for answer in predict(tiny_model, pictures))


def test_first_frame_of_an_animated_picture_is_taken_and_said_so(run, pictures, tiny_model):
    first, *more = (Image.fromarray(image) for image in IMAGES[:3])
    for name, frames in (("three.gif", more), ("two.webp", more[:1])):
        first.save(pictures / name, save_all=True, append_images=frames, lossless=True)
    result = run("predict", pictures, "--no-invert", "--model", tiny_model, "--format", "csv")
    said = [line for line in result.stderr.splitlines() if "the first of" in line]
    assert said == [
        f"{pictures / 'three.gif'}: the first of 3 frames is taken",
        f"{pictures / 'two.webp'}: the first of several frames is taken",
    ]
    rows = {row["path"]: row["label"] for row in csv.DictReader(io.StringIO(result.stdout))}
    assert rows[str(pictures / "three.gif")] == rows[str(pictures / "0.png")]
    assert rows[str(pictures / "two.webp")] == rows[str(pictures / "0.png")]


def test_grid_of_test_images_that_are_not_here_says_to_name_them(run, tiny_model, tmp_path):
    result = run("predict", "--model", tiny_model)
    assert result.exit_code == 2
    assert "the pictures that it was tested on (none, sha256 dddddddddddddddd…) are not here" in (
        result.stderr
    )
    assert "next: name it with --data" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_bad_pictures_are_named_and_the_rest_predicted(run, pictures, tiny_model, tmp_path):
    (pictures / "empty.png").touch()
    (pictures / "text.png").write_text("hello")
    whole = (pictures / "0.png").read_bytes()
    (pictures / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "void").mkdir()
    result = run("predict", pictures, "absent.png", "void", LONG, "--model", tiny_model)
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 4
    errors = [line for line in result.stderr.splitlines() if line.startswith("convnet-edge: ")]
    assert len(errors) == 6
    assert result.stderr.endswith("\n4 labelled, 6 unreadable\n")
    for name in ("empty.png", "text.png", "cut.png", "absent.png", "void", LONG):
        (line,) = [line for line in errors if name in line]
        assert "expected" in line
        assert "next: " in line


def test_name_that_is_no_text_stays_readable_in_a_table(run, pictures, tiny_model):
    (pictures / "0.png").rename(pictures / "\udcff.png")
    result = run("predict", pictures, "--model", tiny_model, "--format", "csv")
    assert f"{pictures}/\\udcff.png," in result.stdout


def test_grid_is_a_png_that_is_asked_for_or_no_matter(run, tiny_model, pictures, tmp_path):
    result = run("predict", "--model", tiny_model, "--plot-out", "g.txt")
    assert result.exit_code == 2
    assert "--plot-out g.txt; expected a name that ends in .png; next: " in result.stderr
    (tmp_path / "runs").touch()
    assert len(predict(tiny_model, pictures, plot_out="runs/g.png")) == 4


@pytest.mark.parametrize("invert", [True, False])
def test_invert_overrules_the_border(tmp_path, tiny_model, invert):
    Image.fromarray(IMAGES[0]).save(tmp_path / "x.png")
    (answer,) = predict(tiny_model, tmp_path / "x.png", invert=invert)
    shown = 255 - IMAGES[:1] if invert else IMAGES[:1]
    expected = Classifier(tiny_model)(shown).top(3)[0]
    assert dict(answer.top) == pytest.approx(dict(expected), rel=1e-4)


def test_predict_without_pictures_draws_a_seeded_grid(rendered, run, tmp_path, test_set):
    chosen = []
    for seed in (0, 1):
        result = run("predict", "--seed", seed)
        assert result.exit_code == 0, result.output
        found = re.findall(r"test image +(\d+): (.+?)(?:   wrong: it is .+)?\n", result.stdout)
        indices, names = [int(index) for index, _ in found], [name for _, name in found]
        assert len(set(indices)) == 15
        assert names == Classifier(shipped_model())(test_set.images[indices]).names
        chosen.append(indices)
    assert chosen[0] != chosen[1]
    assert result.stderr.startswith(f"model: {shipped_model().name}, the shipped one\n")
    with Image.open(tmp_path / "runs" / "predictions.png") as picture:
        assert np.asarray(picture).std() > 10


def test_predict_with_pictures_and_plot_does_both(run, tmp_path, test_set):
    Image.fromarray(test_set.images[0]).save(tmp_path / "x.png")
    result = run("predict", "x.png", "--plot", "--plot-out", "g.png")
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr.count("test image ") == 15
    assert (tmp_path / "g.png").exists()


def test_a_table_without_pictures_is_its_header_and_no_prose(run, test_set):
    result = run("predict", "--format", "csv")
    assert result.exit_code == 0, result.output
    assert [row[:2] for row in csv.reader(io.StringIO(result.stdout))] == [["path", "label"]]
    assert result.stderr.count("test image ") == 15
