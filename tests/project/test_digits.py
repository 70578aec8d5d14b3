"""The example of real pictures of one's own: scikit-learn's digits, to a file with proof."""

import runpy
import sys

import numpy as np
import pytest
from emulated import REPOSITORY
from environments import empty_environment, run
from PIL import Image

import convnet_edge as ce
from convnet_edge.drawing import pictures

EXAMPLE = REPOSITORY / "examples" / "digits.py"


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name, str(tmp_path / "digits")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    found, expected, next_step = said.split("; ")
    assert "scikit-learn is not installed" in found
    assert expected.startswith("expected ")
    assert next_step == "next: pip install scikit-learn"
    assert not list(tmp_path.iterdir())


@pytest.mark.index
def test_digits_are_learned_and_exported_with_proof(monkeypatch, tmp_path):
    """Install what users do, 69 MB: the wheel with the pictures has 9, load_digits needs the rest.

    The oracle is the table in that wheel.
    """
    python = empty_environment(tmp_path / "venv", "scikit-learn", "pillow")
    folder = tmp_path / "digits"
    run(python, EXAMPLE, folder, cwd=tmp_path)
    (table,) = (tmp_path / "venv").rglob("digits.csv.gz")
    rows = np.loadtxt(table, delimiter=",")  # 64 pixels from 0 to 16, and the digit
    assert len(rows) == len(list(folder.rglob("*.png"))) == 1797
    for number, row in enumerate(rows):
        image = np.asarray(Image.open(folder / f"{row[64]:.0f}" / f"{number:04}.png"))
        assert (image.dtype, image.shape) == (np.uint8, (8, 8))
        assert (np.abs(image / 255 - row[:64].reshape(8, 8) / 16) <= 0.5 / 255 + 1e-9).all()

    undrawn = pictures.Picture(tmp_path / "x.png", drawn=False)
    for draw in ("training_curve", "parity_errors"):
        monkeypatch.setattr(pictures, draw, lambda *_, **__: undrawn)
    data, out = str(folder), tmp_path / "digits.safetensors"
    trained = ce.train(
        ce.TrainOptions(data=data, image_size=(16,), epochs=5, device="cpu", out=out)
    )
    assert trained.record["class_labels"] == list("0123456789")
    assert trained.test.n > 100
    assert trained.test.interval.low > 0.5  # chance is 0.1
    exported = ce.export(ce.ExportOptions(out, out=tmp_path / "digits.onnx"))
    assert exported.score.accuracy == trained.test.accuracy
    verified = ce.verify(ce.VerifyOptions(exported.model_path, against=out))
    assert verified.report.passed
    assert verified.report.comparison is not None
