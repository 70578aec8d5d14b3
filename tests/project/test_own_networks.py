"""The whole chain on pictures of one's own, for whoever's network: from its name to a page."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from emulated import REPOSITORY
from PIL import Image

from convnet_edge.bundling import site
from convnet_edge.runtime import Classifier

LABELS = ("bar", "cross", "ring")
N_PICTURES, SIDE = 40, 24  # of each class; pixels
EPOCHS = 2
OWN = "residual.py:Residual"
NETWORKS = (
    OWN,
    "convnet",
    "torchvision:mobilenet_v3_small",
    "timm:mobilenetv3_small_050",
)


def draw(label: int, rng: np.random.Generator) -> Image.Image:
    """Return a noisy picture of a bar, a cross or a ring somewhere in it."""
    pixels = rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
    row, column = rng.integers(9, SIDE - 8, 2)
    rows, columns = np.abs(np.indices((SIDE, SIDE)) - np.array([row, column])[:, None, None])
    bar = (columns <= 1) & (rows <= 7)
    cross = bar | ((rows <= 1) & (columns <= 7))
    ring = np.abs(np.hypot(rows, columns) - 6) <= 1
    pixels[(bar, cross, ring)[label]] += 150
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for label, name in enumerate(LABELS):
        (folder / name).mkdir()
        for number in range(N_PICTURES):
            draw(label, rng).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def ort_web(tmp_path) -> Path:
    """npm's package as far as it is looked at."""
    folder = tmp_path / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    name, version = site.ORT_WEB.split()
    (folder / "package.json").write_text(json.dumps({"name": name, "version": version}))
    for file in site.ORT_FILES:
        (folder / "dist" / file).write_text(f"// {file}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("arch", NETWORKS)
def test_network_is_trained_proved_made_integer_measured_and_bundled(
    run, brief, pictures, ort_web, tmp_path, arch
):
    if arch.startswith("timm"):
        pytest.importorskip("timm")
    source = (REPOSITORY / "examples" / "residual.py").read_text()
    (tmp_path / "residual.py").write_text(source)

    def must(*line: object) -> str:
        done = run(*line)
        assert done.exit_code == 0, (line, done.output, done.exception)
        return done.stdout

    of = ("--data", pictures)
    must("train", *of, "--arch", arch, "--image-size", SIDE, "--epochs", EPOCHS, "--batch-size", 8,
         "--device", "cpu", "--out", "own.safetensors")  # fmt: skip
    must("export", "own.safetensors", *of, "--out", "own.onnx")
    proved = must("verify", "own.onnx", "--against", "own.safetensors", *of)
    assert "logits against float64 PyTorch" in proved
    # too few pictures for integers, unless more may be lost
    assert proved.endswith(f"next: convnet-edge bench --data {pictures} own.onnx\n")
    assert must("verify", "own.onnx").endswith("next: convnet-edge bench own.onnx\n")
    must("quantize", "own.onnx", *of, "--max-drop", 60)
    must("verify", "own.int8.onnx")
    must("bench", "own.onnx", "own.int8.onnx", "--quick", *of)
    must("report", "--out", "report.html")
    assert "own.int8.onnx" in Path("report.html").read_text()
    must("bundle", "own.onnx", "own.int8.onnx", "--out", "own.pyz")
    picture = next((pictures / "ring").iterdir())
    for line in (("selftest",), ("predict", str(picture))):
        done = subprocess.run(
            [sys.executable, "own.pyz", *line], capture_output=True, text=True, env={}
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert any(label in done.stdout for label in LABELS)
    must("bundle", "own.onnx", "own.int8.onnx", "--target", "web", "--ort-web", ort_web,
         "--out", "page")  # fmt: skip
    assert (tmp_path / "page" / "index.html").exists()
    report = json.loads(Path("own.int8.quantize.json").read_text())
    assert report["layers"]["integer"] >= 4
    stated = Classifier("own.int8.onnx").contract
    assert stated.document["training"]["arch"] == arch
    assert stated.class_labels == LABELS
