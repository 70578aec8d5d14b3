"""Own pictures from their folder to a device, by the command line."""

import json
import os
import shutil

import faults
import numpy as np
import pytest
from PIL import Image

from convnet_edge.data import dataset, fashion_mnist
from convnet_edge.data.options import PreparationOptions
from convnet_edge.drawing import pictures
from convnet_edge.networks import checkpoint
from convnet_edge.runtime.__main__ import main as device_main

LABELS = ("dot", "stripe", "sweep")
# float32: otherwise whichever format is faster at that moment, run by run
FAST = (
    "--epochs",
    "2",
    "--arch-option",
    "width=0.2",
    "--device",
    "cpu",
    "--precision",
    "float32",
)
QUICK = ("--quick", "--duration", "0.02", "--min-runs", "11")


def draw(label, shape, rng):
    """Return a picture of a class, at a place of its own, under noise."""
    height, width = shape[:2]
    rows, columns = np.ogrid[:height, :width]
    row, column = rng.integers(4, (height - 4, width - 4))
    light = {
        "dot": (abs(rows - row) < 4) & (abs(columns - column) < 4),
        "stripe": (abs(rows - row) < 2) & (columns >= 0),
        "sweep": (abs(columns - column) < 2) & (rows >= 0),
    }[label]
    values = np.where(light, 200, 40).reshape(height, width, *[1] * (len(shape) - 2))
    return (values + rng.integers(0, 50, shape)).astype(np.uint8)


def write(folder, shape, counts, *, seed=0, shuffle_test=False):
    """Draw so many pictures of each class into each of the parts; BMP is the same everywhere."""
    rng = np.random.default_rng(seed)
    for part, n in counts.items():
        for place, label in enumerate(LABELS):
            shown = LABELS[place - 1] if shuffle_test and part == "test" else label
            (folder / part / shown).mkdir(parents=True, exist_ok=True)
            for index in range(n):
                path = folder / part / shown / f"{label}{index}.bmp"
                Image.fromarray(draw(label, shape, rng)).save(path)
    return folder


@pytest.fixture(autouse=True)
def undrawn(brief, monkeypatch, tmp_path):
    """Nothing is drawn; each test has a cache of its own."""
    monkeypatch.setattr("convnet_edge.commands.bench._draw", lambda *_: iter(()))
    undrawn = pictures.Picture(tmp_path / "x.png", drawn=False)
    for draw_it in ("training_curve", "parity_errors"):
        monkeypatch.setattr(pictures, draw_it, lambda *_, **__: undrawn)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def read(path):
    return json.loads(path.read_text())


@pytest.fixture
def do(run):
    """Run a command line that succeeds; return what it said."""

    def succeed(*arguments):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        return result.output

    return succeed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "parts", "cache"),
    [
        ((16, 16), {"": 36}, ()),
        ((24, 20, 3), {"train": 24, "test": 10}, ("--cache", "pictures here")),
    ],
    ids=["grey", "rgb"],
)
def test_folder_goes_all_the_way_to_a_device(do, run, tmp_path, capsys, shape, parts, cache):
    folder = write(tmp_path / "my shapes", shape, parts)
    kept = tmp_path / (cache[1] if cache else "xdg/convnet-edge")
    do("train", "--data", folder, *cache, *FAST, "--out", "own.safetensors")
    record = read(tmp_path / "own.train.json")
    n_test = record["test"]["n"]
    assert record["class_labels"] == list(LABELS)
    assert record["model"]["image_shape"] == [*(shape[2:] or [1]), *shape[:2]]
    assert sum(map(sum, record["data"]["n_by_class"].values())) == 3 * sum(parts.values())
    assert (tmp_path / "own.split.json").exists() == ("" in parts)

    do("export", "own.safetensors", *cache, "--out", "own.onnx")
    do("verify", "own.onnx", "--skew", "--against", "own.safetensors", *cache)
    mistakes = {one["mistake"]: one for one in read(tmp_path / "own.verify.json")["skew"]}
    assert ("BGR for RGB" in mistakes) == (len(shape) == 3)
    assert {one["n"] for one in mistakes.values()} == {n_test}
    do("verify", "own.onnx", "--skew", "--data", folder, *cache)  # files make more mistakes
    assert {one["mistake"] for one in read(tmp_path / "own.verify.json")["skew"]} > set(mistakes)

    do("bench", "own.onnx", *QUICK, *cache, "--out", "own.json")
    measured = read(tmp_path / "own.json")["accuracy"]
    assert (measured["n"], measured["accuracy"]) == (n_test, record["test"]["accuracy"])
    for given, lacking in ((("--data", folder), "928 at least: of fewer no gate of 0.5 points can"),
                           ((), "--data")):  # fmt: skip
        few = run("quantize", "own.onnx", *given, *cache)
        assert few.exit_code == 2
        assert lacking in few.output

    do("bundle", "own.onnx", "--with-test-set", *cache)
    assert device_main(tmp_path / "own.pyz", ["selftest"]) == 0
    assert capsys.readouterr().out.endswith("PASS\n")
    assert device_main(tmp_path / "own.pyz", ["bench", *QUICK, "--json"]) == 0
    there = json.loads(capsys.readouterr().out)["accuracy"]
    assert (there["n"], there["accuracy"]) == (n_test, record["test"]["accuracy"])

    shutil.rmtree(kept)
    said = do("bench", "own.onnx", *QUICK, *cache, "--out", "own.json")
    assert "accuracy: not measured here, needs the pictures that it was tested on" in said
    assert read(tmp_path / "own.json")["accuracy"] is None
    lost = run("bundle", "own.onnx", "--with-test-set", *cache)
    assert lost.exit_code == 2
    assert "name it with --data" in lost.output
    do("bundle", "own.onnx", "--with-test-set", "--data", folder, *cache)


def test_images_of_png_files_are_those_of_the_sample_bit_for_bit(tmp_path):
    sample = fashion_mnist.load_training_set("sample", None)
    names = fashion_mnist.CLASS_LABELS
    for index in range(200):
        path = tmp_path / "files" / names[sample.labels[index]].replace("/", "∕") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.images[index]).save(path)
    loaded = dataset.load(PreparationOptions(data=str(tmp_path / "files")))
    how = loaded.preprocessing
    assert (how.shape, how.invert, how.background) == ((28, 28), "never", "keep")
    seen = []
    for side in (loaded.train, loaded.validation, loaded.test):
        for image, label, path in zip(side.images, side.labels, side.paths, strict=True):
            index = int(path.rpartition(os.sep)[2].removesuffix(".png"))
            assert (image == sample.images[index]).all()
            name = names[sample.labels[index]].replace("/", "∕")
            assert loaded.class_labels[label] == name
            seen.append(index)
    assert sorted(seen) == list(range(200))


def test_planted_leaks_are_listed_and_refused_unless_allowed(do, run, tmp_path):
    folder = write(tmp_path / "leaky", (16, 16), {"train": 20, "test": 5})
    shutil.copy(folder / "train/dot/dot0.bmp", folder / "test/dot/again.bmp")
    shutil.copy(folder / "train/dot/dot1.bmp", folder / "train/sweep/other.bmp")
    for command in (("data", folder), ("train", "--data", folder, *FAST)):
        refused = run(*command)
        assert refused.exit_code == 1, refused.output
        assert "of two labels: 2" in refused.output
        assert "--allow-leaks" in refused.output
        for pair in (("dot0.bmp", "again.bmp"), ("dot1.bmp", "other.bmp")):
            assert any(all(n in line for n in pair) for line in refused.output.splitlines())
    assert not (tmp_path / "checkpoints").exists()
    leaks = read(tmp_path / "runs/data.json")["leaks"]
    assert leaks["n"] == 2
    assert {len(set(pair["parts"])) for pair in leaks["listed"]} == {1, 2}
    do("data", folder, "--allow-leaks")
    do("train", "--data", folder, *FAST, "--allow-leaks", "--out", "leaky.safetensors")
    assert read(tmp_path / "leaky.train.json")["data"]["n_leaks"] == 2


def test_name_that_is_no_text_is_drawn_escaped_and_the_next_command_is_whole(do, tmp_path):
    folder = write(tmp_path / "own", (20, 20), {"train": 5, "test": 2})
    copy = os.fsdecode(os.fsencode(folder / "train" / "dot") + b"/caf\xe9.bmp")
    shutil.copy(folder / "train" / "dot" / "dot0.bmp", copy)
    said = do("data", folder, "--image-size", "18", "--fit", "pad")
    assert f"next: convnet-edge train --data {folder} --image-size 18 --fit pad" in said
    assert (tmp_path / "runs" / "data.pairs.png").exists()


@pytest.mark.slow
def test_no_choice_looks_at_the_labels_of_test_pictures(do, tmp_path):
    parts = {"train": 24, "validation": 16, "test": 8}
    graphs, weights, decisions, scores = [], [], [], []
    for shuffled in (False, True):
        folder = write(tmp_path / f"{shuffled}" / "shapes", (16, 16), parts, shuffle_test=shuffled)
        out = tmp_path / f"{shuffled}"
        do("train", "--data", folder, *FAST, "--out", out / "own.safetensors")
        do("export", out / "own.safetensors", "--out", out / "own.onnx")
        do(
            "quantize",
            out / "own.onnx",
            "--data",
            folder,
            "--max-drop",
            "95",
            "--out",
            out / "8.onnx",
        )
        model, kept = checkpoint.load_model(out / "own.safetensors")
        weights.append([values.numpy().tobytes() for values in model.state_dict().values()])
        decisions.append(kept.header["decision"])
        scores.append(kept.header["test"])
        graphs.append(
            [faults.unsealed((out / name).read_bytes()) for name in ("own.onnx", "8.onnx")]
        )
    assert scores[0] != scores[1]
    assert weights[0] == weights[1]
    assert decisions[0] == decisions[1]
    assert graphs[0] == graphs[1]
