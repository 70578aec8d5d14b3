import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from convnet_edge.predicting import predict as predict_module
from convnet_edge.predicting.options import PredictOptions
from convnet_edge.runtime import Classifier


@pytest.fixture
def pictures(tmp_path, test_set):
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    for index in range(3):
        Image.fromarray(test_set.images[index]).save(folder / f"{index}.png")
    photo = 255 - test_set.images[3].repeat(8, axis=0).repeat(8, axis=1)
    Image.fromarray(photo).save(folder / "inner" / "photo.jpg", quality=95)
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_predict_answers_every_picture_of_a_folder(pictures, exported, test_set):
    config = PredictOptions(model=exported.model_path)
    answers = list(predict_module.predict(config, [pictures]))
    assert [a.path.name for a in answers] == ["0.png", "1.png", "2.png", "photo.jpg"]
    expected = Classifier(exported.model_path)(test_set.images[:4])
    assert [a.label for a in answers] == expected.names
    assert dict(answers[0].top) == pytest.approx(dict(expected.top(3)[0]), rel=1e-5)


def test_more_pictures_than_a_batch_keep_their_order(tmp_path, exported, test_set):
    n = predict_module.RUN_BATCH_SIZE + 3
    for index in range(n):
        Image.fromarray(test_set.images[index]).save(tmp_path / f"{index:03}.png")
    (tmp_path / "010.png").write_bytes(b"damaged")
    answers = list(predict_module.predict(PredictOptions(model=exported.model_path), [tmp_path]))
    expected = Classifier(exported.model_path)(test_set.images[:n]).names
    assert isinstance(answers[10], predict_module.Failure)
    for index, answer in enumerate(answers):
        assert answer.path.name == f"{index:03}.png"
        if index != 10:
            assert answer.label == expected[index]


def test_formats_agree(run, pictures, exported):
    model = ("--model", exported.model_path)
    text = run("predict", pictures, *model).stdout
    rows = list(
        csv.DictReader(io.StringIO(run("predict", pictures, *model, "--format", "csv").stdout))
    )
    lines = run("predict", pictures, *model, "--format", "jsonl").stdout.splitlines()
    whole = json.loads(run("predict", pictures, *model, "--json").stdout)["predictions"]
    assert [json.loads(line) for line in lines] == whole
    assert [row["label"] for row in rows] == [answer["label"] for answer in whole]
    for answer, row in zip(whole, rows, strict=True):
        assert f"{answer['path']}: {answer['label']}" in text
        assert float(row["probability"]) == pytest.approx(answer["top"][0]["probability"], abs=1e-6)


def test_bad_pictures_are_named_one_line_each_and_the_rest_predicted(run, pictures, exported):
    (pictures / "empty.png").touch()
    (pictures / "text.png").write_text("hello")
    whole = (pictures / "0.png").read_bytes()
    (pictures / "cut.png").write_bytes(whole[: len(whole) // 2])
    result = run("predict", pictures, "absent.png", "--model", exported.model_path)
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 4
    errors = [line for line in result.stderr.splitlines() if line.startswith("convnet-edge: ")]
    assert len(errors) == 4
    for name in ("empty.png", "text.png", "cut.png", "absent.png"):
        assert sum(name in line for line in errors) == 1
        assert all("expected" in line and "next:" in line for line in errors)


def test_folder_without_pictures_is_an_error(run, exported, tmp_path):
    (tmp_path / "void").mkdir()
    result = run("predict", "void", "--model", exported.model_path)
    assert result.exit_code == 2
    assert "void" in result.stderr


@pytest.mark.parametrize(("option", "expected"), [("--invert", True), ("--no-invert", False)])
def test_invert_overrules_the_border(run, tmp_path, exported, test_set, option, expected):
    Image.fromarray(test_set.images[0]).save(tmp_path / "x.png")
    result = run("predict", "x.png", "--model", exported.model_path, option, "--format", "jsonl")
    shown = 255 - test_set.images[:1] if expected else test_set.images[:1]
    top = Classifier(exported.model_path)(shown).top(1)[0][0]
    answer = json.loads(result.stdout)
    assert answer["label"] == top[0]
    assert answer["top"][0]["probability"] == pytest.approx(top[1], rel=1e-4)


def test_grid_is_seeded_and_marks_wrong_ones(exported, tmp_path, test_set):
    grids = [
        predict_module.draw_test_grid(
            PredictOptions(model=exported.model_path, seed=seed, out=tmp_path / f"{i}.png")
        )
        for i, seed in enumerate((1, 1, 2))
    ]
    assert grids[0].indices == grids[1].indices != grids[2].indices
    assert len(set(grids[0].indices)) == 15
    expected = Classifier(exported.model_path)(test_set.images[list(grids[0].indices)]).names
    assert list(grids[0].names) == expected
    with Image.open(tmp_path / "0.png") as picture:
        assert np.asarray(picture).std() > 10


def test_predict_without_pictures_draws_the_grid(run, exported, tmp_path):
    result = run("predict", "--model", exported.model_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("?") == 15
    assert (tmp_path / "runs" / "predictions.png").exists()


def test_predict_with_pictures_and_plot_does_both(run, pictures, exported, tmp_path):
    result = run("predict", pictures, "--model", exported.model_path, "--plot", "--out", "g.png",
                 "--json")  # fmt: skip
    document = json.loads(result.stdout)
    assert len(document["predictions"]) == 4
    assert len(document["grid"]["indices"]) == 15
    assert (tmp_path / "g.png").exists()
