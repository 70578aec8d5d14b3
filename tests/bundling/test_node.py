"""The Node example: it proves the shipped models and sees what Python sees."""

import json
import re
import shutil
import subprocess

import faults
import numpy as np
import page_models
import pytest
import tiny
from emulated import EXPORTED, REPOSITORY
from environments import run
from PIL import Image

from convnet_edge.runtime import Classifier, contract
from convnet_edge.runtime.model_file import open_model
from convnet_edge.runtime.pictures import preprocess

EXAMPLE = REPOSITORY / "examples" / "node"
MODEL_PATH = EXPORTED / "fashion-mnist.onnx"
CONTRACT = open_model(MODEL_PATH).contract
SAMPLE = CONTRACT.samples[0]

pytestmark = pytest.mark.index


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Install the locked packages in a copy; return a function that runs classify.mjs there."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("no Node.js with npm here")
    root = tmp_path_factory.mktemp("node")
    folder = root / "examples" / "node"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(REPOSITORY / "convnet_edge" / "web", root / "convnet_edge" / "web")
    shutil.copy(REPOSITORY / "package.json", root)
    run("npm", "ci", "--ignore-scripts", cwd=folder)

    def run_example(*arguments):
        command = ["node", "classify.mjs", *map(str, arguments)]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True)

    return run_example


@pytest.mark.parametrize("kind", ["", ".int8", ".int8-ort"])
def test_shipped_model_passes_in_node(node, kind):
    path = EXPORTED / f"fashion-mnist{kind}.onnx"
    done = node(path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "PASS"
    errors = [float(error) for error in re.findall(r"largest error (\S+),", done.stdout)]
    assert 0 < max(errors) <= open_model(path).contract.goldens.tolerance
    assert len(errors) == 2
    assert int(re.search(r"largest difference (\d+) of 255", done.stdout).group(1)) <= 2


def shift_a_sample(document):
    sample = document["preprocessing"]["samples"][0]
    pixels = SAMPLE.pixels.astype(int)
    sample["pixels"] = contract.encode_pixels(abs(pixels - 4).astype(np.uint8))


def test_fault_fails_its_check_with_exit_1(node, tmp_path):
    model = MODEL_PATH.read_bytes()
    for check, changed in (
        ("golden vectors, one by one", faults.change_sealed(model, faults.nudge_one_weight)),
        ("digest", model.replace(b'"name":"fashion-mnist"', b'"name":"fashion-mnisd"')),
        ("digest", model.replace(b"layer_stack.0", b"layer_stuck.0")),
        ("preprocessing samples", faults.change_document(model, shift_a_sample)),
    ):
        assert changed != model
        (tmp_path / "m.onnx").write_bytes(changed)
        done = node(tmp_path / "m.onnx")
        assert done.returncode == 1
        assert f"[x] {check}" in done.stdout
        assert ("[✓] digest" in done.stdout) == (check != "digest")
        assert done.stdout.splitlines()[-1] == "FAIL"


def test_pictures_of_any_kind_become_pythons_pixels_and_get_its_labels(node, test_set, tmp_path):
    rng, paths = np.random.default_rng(0), []
    for mode, width, height, suffix in (
        ("L", 61, 40, "png"), ("RGB", 33, 97, "jpg"), ("RGBA", 50, 50, "png"),
        ("RGB", 300, 7, "jpg"), ("L", 9, 5, "png"),
    ):  # fmt: skip
        values = rng.integers(0, 256, (height, width, len(mode)), np.uint8)
        values[0] = values[-1] = values[0, 0]  # a border of one colour
        paths.append(tmp_path / f"{mode}-{width}.{suffix}")
        Image.fromarray(values[..., 0] if mode == "L" else values).save(paths[-1])
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = Image.fromarray(test_set.images[orientation][:, 4:]).resize((96, 112))
        for suffix in ("png", "jpg"):
            paths.append(tmp_path / f"{orientation}.{suffix}")
            picture.save(paths[-1], exif=exif)
    done = node(MODEL_PATH, "--pixels", *paths)
    assert done.returncode == 0, done.stderr
    for line, path in zip(done.stdout.splitlines(), paths, strict=True):
        expected = preprocess.to_pixels(path, preprocess.FASHION_MNIST).pixels
        assert expected.std() > 0
        found = np.array(json.loads(line)).reshape(28, 28)
        assert np.abs(found - expected.astype(int)).max() <= 2, path.name
    done = node(MODEL_PATH, *paths)
    lines = done.stdout.splitlines()[-len(paths) :]
    said = Classifier(MODEL_PATH)(paths)
    assert 0 < said.unsure.sum() < len(paths)
    for line, path, best, unsure in zip(lines, paths, said.top(3), said.unsure, strict=True):
        doubt = r"not sure \(.+\): " if unsure else ""
        assert re.match(f"{re.escape(str(path))}: {doubt}{best[0][0]} ", line)
        shares = [float(share) for share in re.findall(r"([\d.]+) %", line)[-3:]]
        np.testing.assert_allclose(shares, [100 * share for _, share in best], atol=3)


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("kind", ["area", "bilinear", "bicubic"])
def test_random_pictures_become_pythons_pixels_by_any_fit_and_filter(node, tmp_path, fit, kind):
    paths = page_models.oddities(tmp_path, 4)
    changes = {"fit": fit, "filter": kind, "invert": "never", "share": 0.9}
    for model in (tiny.grey(), tiny.rgb()):
        changed = faults.change_document(model, lambda one: one["preprocessing"].update(changes))
        (tmp_path / "m.onnx").write_bytes(changed)
        how = open_model(tmp_path / "m.onnx").contract.preprocessing
        done = node(tmp_path / "m.onnx", "--pixels", *paths)
        assert done.returncode == 0, done.stderr
        for line, path in zip(done.stdout.splitlines(), paths, strict=True):
            expected = preprocess.to_pixels(path, how).pixels.astype(int)
            found = np.array(json.loads(line)).reshape(how.shape)
            assert np.abs(found - expected).max() <= 2, path.name


def test_picture_for_a_network_of_colours_keeps_them(node, tmp_path):
    test = page_models.colour_set(4)
    path = tmp_path / "colours.onnx"
    path.write_bytes(page_models.colour_model(test))
    picture = tmp_path / "picture.png"
    Image.fromarray(test.images[3]).resize((48, 64), Image.Resampling.NEAREST).save(picture)
    done = node(path, picture)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{picture}: {page_models.COLOURS[3]} ")
    assert "2 pictures, largest difference" in done.stdout


def test_file_that_is_no_picture_is_named_with_exit_2(node, tmp_path):
    contents = [
        *(
            (content, f"is {what}; expected PNG, or JPEG in grey or RGB, of at most 89")
            for what, content in page_models.refused_pictures().items()
        ),
        (b"no picture", "is no picture that is known here; expected PNG"),
        (SAMPLE.encoded[:-40], "is damaged or too large"),
        (SAMPLE.encoded[:12], "is damaged or too large"),
        (b"\xff\xd8\xff\xe0", "is damaged or too large"),
        (b"", "is no picture that is known here"),
        (None, "cannot be read: ENOENT"),
    ]
    for i, (content, message) in enumerate(contents):
        path = tmp_path / f"{i}.png"
        if content is not None:
            path.write_bytes(content)
        done = node(MODEL_PATH, path)
        assert done.returncode == 2
        assert f"{path} {message}" in done.stderr
        assert "; next: " in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_file_that_is_no_model_is_explained_with_exit_2(node, tmp_path):
    model = MODEL_PATH.read_bytes()
    contents = {
        "not a readable ONNX file": b"no model",
        "not a readable ONNX file (100 bytes are missing)": model[:-100],
        "no contracts in the file": faults.unsealed(model),
        "the contract in the file is damaged": model.replace(b'"schema":3', b'"schema":2'),
    }
    for message, content in contents.items():
        (tmp_path / "m.onnx").write_bytes(content)
        done = node(tmp_path / "m.onnx")
        assert done.returncode == 2, message
        assert message in done.stderr
    for arguments, message in ((), "no model was named"), (("--no",), "Unknown option '--no'"):
        done = node(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
