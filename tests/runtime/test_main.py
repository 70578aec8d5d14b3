"""The command line of a bundle, on bundles of hand-made models."""

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import faults
import numpy as np
import pytest
import results
import tiny
from PIL import Image

from convnet_edge.runtime import Classifier, archive
from convnet_edge.runtime.__main__ import main
from convnet_edge.runtime.measure import bench, race
from convnet_edge.runtime.measure.options import BenchOptions
from convnet_edge.runtime.options import declared
from convnet_edge.runtime.pictures import preprocess
from convnet_edge.runtime.pictures.preprocess import Prepared

TEST = tiny.image_set(60)


def pack(path, models, **more):
    manifest = {
        "schema": archive.SCHEMA,
        "convnet_edge": "0.0",
        "models": [{"name": name} for name in models],
    }
    members = {archive.MODELS + name: model for name, model in models.items()}
    content = {**members, **more, archive.MANIFEST: json.dumps(manifest).encode()}
    path.write_bytes(archive.pack(content))
    return path


@pytest.fixture
def bundle(tmp_path):
    models = {"grey.onnx": tiny.grey(), "grey-uint8.onnx": tiny.grey_uint8()}
    return pack(tmp_path / "b.pyz", models, **{archive.TEST_SET: archive.encode_test_set(TEST)})


def petabyte():
    """Return a test set of a few bytes, whose images say that they are a petabyte."""
    header, content = io.BytesIO(), io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": (1 << 50,)}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(content, "w") as zipped:
        zipped.writestr("images.npy", header.getvalue())
    return content.getvalue()


def test_encrypted_archive_is_refused(tmp_path):
    path = pack(tmp_path / "b.pyz", {"g": tiny.grey()})
    body = bytearray(path.read_bytes()[: -archive.COMMENT_BYTES])
    for header, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        body[body.index(header) + place] |= 1
    path.write_bytes(body + archive.COMMENT_PREFIX + hashlib.sha256(body).hexdigest().encode())
    with pytest.raises(archive.InputError, match=r"no bundle .*encrypted"):
        archive.read_archive(path)


@pytest.mark.parametrize(
    "content",
    [
        b"no zip",
        petabyte(),
        archive.encode_test_set(replace(TEST, labels=TEST.labels[:3])),
        archive.encode_test_set(replace(TEST, images=TEST.images / 255)),
    ],
)
def test_test_set_that_is_none_is_refused(tmp_path, content):
    path = pack(tmp_path / "b.pyz", {"g": tiny.grey()}, **{archive.TEST_SET: content})
    with pytest.raises(archive.InputError, match="no bundle"):
        archive.read_archive(path).test_set()


def test_test_set_of_colour_comes_back_whole(tmp_path):
    given = tiny.image_set(5, tiny.RGB)
    content = {archive.TEST_SET: archive.encode_test_set(given)}
    found = archive.read_archive(pack(tmp_path / "b.pyz", {"g": tiny.rgb()}, **content)).test_set()
    np.testing.assert_array_equal(found.images, given.images)
    np.testing.assert_array_equal(found.labels, given.labels)
    assert (found.sha256, found.source) == (given.sha256, "b.pyz")


def test_selftest_as_json_names_each_models_checks(bundle, capsys):
    assert main(str(bundle), ["selftest", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert [model["name"] for model in found["models"]] == ["grey.onnx", "grey-uint8.onnx"]
    assert {"digest", "preprocessing samples"} <= {
        check["name"] for check in found["models"][0]["checks"]
    }


def test_predict_gives_the_classifiers_labels(bundle, tmp_path, capsys):
    paths = []
    for picture in tiny.pictures():
        paths.append(tmp_path / picture.name)
        paths[-1].write_bytes(picture.encoded)
    code = main(str(bundle), ["predict", *map(str, paths), "--model", "grey.onnx", "--json"])
    assert code == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert [row["label"] for row in found] == Classifier(tiny.grey())(paths).names
    assert main(str(bundle), ["predict", str(tmp_path / "absent.png"), str(paths[0])]) == 2
    answered = capsys.readouterr()
    assert "absent.png" in answered.err
    assert "the fastest that passes here" in answered.err
    assert answered.out.startswith(f"{paths[0]}: ")
    assert main(str(bundle), ["predict", str(tmp_path)]) == 2
    assert f"next: name them, as {tmp_path}/*.jpg" in capsys.readouterr().err
    assert main(str(bundle), ["predict"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(tiny.pictures())  # the samples


def test_predict_says_of_which_answers_the_model_is_not_sure(tmp_path, capsys, monkeypatch):
    sure, uneven = Prepared(tiny.images(1)[0], False, 0.1), Prepared(tiny.images(1)[0], False, 0.3)
    monkeypatch.setattr(preprocess, "to_pixels", lambda path, *_, **__: pictures[path])
    pictures = {Path("a.png"): sure, Path("b.png"): uneven}
    for stated, expected in (
        ({}, [True, True]), ({"max_unevenness": 0.2}, [True, False]),
        ({"threshold": 1.0}, [False, False]),
    ):  # fmt: skip
        path = pack(tmp_path / "b.pyz", {"grey.onnx": faults.decide(tiny.grey(), **stated)})
        assert main(str(path), ["predict", "a.png", "b.png", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["predictions"]
        assert [row["sure"] for row in found] == expected
        assert main(str(path), ["predict", "a.png", "b.png"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [": not sure: " not in line for line in lines] == expected
        assert all(row["label"] in line for row, line in zip(found, lines, strict=True))


def test_predict_says_that_the_first_frame_of_several_is_taken(bundle, tmp_path, capsys):
    first, *more = (Image.fromarray(pixels) for pixels in tiny.images(3))
    paths = [tmp_path / name for name in ("three.webp", "one.webp")]
    first.save(paths[0], save_all=True, append_images=more, lossless=True)
    first.save(paths[1], lossless=True)
    assert main(str(bundle), ["predict", *map(str, paths), "--model", "grey.onnx"]) == 0
    _, *said = capsys.readouterr().err.splitlines()  # the first names the model
    assert said == [f"{paths[0]}: the first of 3 frames is taken"]


def test_bench_without_test_images_measures_no_accuracy(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "N_PROCESSES", 1)
    monkeypatch.setattr(bench, "QUICK_DURATION_S", 0.02)
    path, out = pack(tmp_path / "b.pyz", {"rgb.onnx": tiny.rgb()}), tmp_path / "r.json"
    main(str(path), ["bench", "--quick", "--threads", "1", "--out", str(out)])
    found = results.read(out)
    assert found.accuracy is None
    assert [row.batch_size for row in found.latency] == [1, 64]


def test_bench_times_the_models_of_a_bundle_in_turn(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "N_PROCESSES", 1)
    monkeypatch.setattr(bench, "QUICK_DURATION_S", 0.02)
    monkeypatch.setattr(bench, "QUICK_RACE_S", 0.01)
    broken = faults.change_sealed(tiny.grey(), faults.nudge_one_weight)
    models = {"a.onnx": tiny.grey(), "b.onnx": tiny.grey_uint8(), "bad.onnx": broken}
    path, out = pack(tmp_path / "b.pyz", models), tmp_path / "r.json"
    main(str(path), ["bench", "--quick", "--threads", "1", "--out", str(out)])
    found = results.read(out)
    (other,) = {"a.onnx", "b.onnx"} - {found.model.name}
    assert {race.other for race in found.races} == {other}
    (said,) = race.advise(found.races)
    assert said in " ".join(capsys.readouterr().out.split())


def test_model_that_fails_here_is_left_out_and_said_so(tmp_path, capsys):
    broken = faults.change_sealed(tiny.grey(), faults.nudge_one_weight)
    path = pack(tmp_path / "b.pyz", {"good.onnx": tiny.grey(), "bad.onnx": broken})
    assert main(str(path), ["selftest"]) == 1
    assert main(str(path), ["predict"]) == 0
    assert "bad.onnx is left out, golden vectors" in capsys.readouterr().err
    assert main(str(path), ["predict", "--model", "bad.onnx"]) == 1


def test_bench_measures_in_the_one_order_and_writes_the_result(
    bundle, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(bench, "N_PROCESSES", 1)
    monkeypatch.setattr(bench, "QUICK_DURATION_S", 0.05)
    out = tmp_path / "r.json"
    arguments = ["bench", "--quick", "--threads", "1", "--model", "grey.onnx", "--out", str(out)]
    code = main(str(bundle), arguments)
    found, said = results.read(out), capsys.readouterr().out
    assert code == (found.verdict.status == "INVALID")
    assert found.accuracy.n_correct == 45
    assert found.cold_start.n_processes == len(found.cold_start.processes) == 1
    assert [row.batch_size for row in found.latency] == [1, 64]
    assert found.interrupted is False
    assert f"\n  {found.verdict.status}" in said
    assert " 75.00 % " in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench", "--batch-sizes", "0"],
        ["bench", "--pace", "often"],
        ["predict", "--model", "absent.onnx"],
        ["predict", "--provider", "tpu"],
        ["predict", "--threads", "0"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_exit_2(bundle, arguments, capsys):
    try:
        code = main(str(bundle), arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert capsys.readouterr().err


def test_no_command_at_all_is_answered_with_the_help_and_exit_2(bundle, capsys):
    assert main(str(bundle), []) == 2
    assert "predict" in capsys.readouterr().out


def test_help_names_every_declared_option_with_the_bundles_defaults(bundle, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(str(bundle), ["bench", "--help"])
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    flags = {one.flag for one in declared(BenchOptions) if not one.positional}
    assert not {flag for flag in flags - {"--spin"} | {"--no-spin"} if flag not in text}
    assert "Default: 1,8." in text
    assert "Switch off: let idle threads wait" in text
