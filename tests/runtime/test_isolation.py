"""A file that takes more than it states ends a process of its own, and is named."""

import os
import signal
import subprocess
import sys

import made
import pytest
import tiny

from convnet_edge.runtime import Classifier, admission, isolation, selftest
from convnet_edge.runtime.errors import InputError, MissingPackageError
from convnet_edge.runtime.model_file import open_model

# a shape that depends on how many images there are, but does not grow as they do
UNKNOWN = "n = Shape <start = 0, end = 1> (images) more = Add (n, many) "
LOGITS = """means = ReduceMean <keepdims = 0> (last, both) flat = Flatten (images)
    raw = Gemm <transB = 1> (flat, linear) logits = Add (raw, means)"""
LINEAR = made.draw(3, 64)
FILLED = (
    UNKNOWN + "huge = ConstantOfShape (more) last = Unsqueeze (huge, row) " + LOGITS,
    {"row": [0], "both": [0, 1], "linear": LINEAR},
)
SQUARE = (
    UNKNOWN
    + "sizes = Concat <axis = 0> (more, more) v0 = ConstantOfShape (sizes) "
    + " ".join(f"v{i + 1} = MatMul (v{i}, v{i})" for i in range(20))
    + " last = Relu (v20) "
    + LOGITS,
    {"both": [0, 1], "linear": LINEAR},
)


def honest_in_small():
    body, arrays = FILLED
    return made.sealed(body, arrays | {"many": [3]}, shapes={"huge": [4]})


def test_file_whose_shapes_are_only_stated_runs_first_in_another_process(monkeypatch):
    file, started = open_model(honest_in_small()), []
    assert admission.admit(file).believed == "ConstantOfShape"
    monkeypatch.setattr(isolation, "start", lambda *a, **k: started.append(k) or done('""'))
    Classifier(file)
    assert started[0]["data"] == file.data
    Classifier(file, isolate=False)
    Classifier(tiny.grey())
    assert len(started) == 1
    Classifier(tiny.grey(), isolate=True)
    assert len(started) == 2


def done(printed, code=0, said=b""):
    return subprocess.CompletedProcess([], code, printed.encode(), said)


@pytest.mark.parametrize("model", [honest_in_small, tiny.grey, tiny.grey_uint8, tiny.rgb])
def test_file_that_takes_what_it_states_is_opened_and_right(model):
    opened = Classifier(model(), isolate=True)
    assert all(check.passed for check in selftest.run_selftest(opened))


def test_device_without_onnxruntime_says_so_and_blames_no_file(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match="onnxruntime") as caught:
        Classifier(honest_in_small())
    assert "pip install" in caught.value.next_step


@pytest.mark.skipif(not isolation.STATM.exists(), reason="memory is limited on Linux alone")
def test_file_that_takes_more_memory_than_it_states_ends_in_the_other_process():
    body, arrays = FILLED
    model = made.stating(body, arrays | {"many": [3 << 28]}, shapes={"huge": [4]})
    with pytest.raises(InputError) as caught:
        Classifier(model)
    assert "the golden images do not run in a process of 512 MiB" in caught.value.found
    assert "it needs more memory" in caught.value.found


@pytest.mark.skipif(not isolation.STATM.exists(), reason="memory is limited on Linux alone")
def test_a_lower_limit_that_holds_already_stays(tiny_model):
    import resource

    code = (
        "import sys; from convnet_edge.runtime import Classifier; "
        "print(Classifier(sys.argv[1], threads=1, isolate=True))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model)], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.stdout.startswith("Classifier(tiny"), ended.stderr


def test_file_that_takes_more_time_than_it_states_is_ended(monkeypatch):
    body, arrays = SQUARE
    shapes = {f"v{i}": [4, 4] for i in range(21)}
    model = made.stating(body, arrays | {"many": [3000]}, shapes=shapes)
    monkeypatch.setattr(isolation, "START_S", 4.0)
    with pytest.raises(InputError, match=r"and 4 s, .* it took longer"):
        Classifier(model)


def test_process_is_ended_where_what_is_done_meanwhile_fails(monkeypatch):
    real, started = subprocess.Popen, []
    monkeypatch.setattr(
        subprocess, "Popen", lambda *a, **k: started.append(real(*a, **k)) or started[0]
    )
    with pytest.raises(KeyboardInterrupt):
        isolation.start(
            "absent", {}, timeout_s=60, meanwhile=lambda: signal.raise_signal(signal.SIGINT)
        )
    assert started[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("ended", "named"),
    [
        (done("", -signal.SIGKILL), "ended with exit -9: it said nothing"),
        (done("", 1, b"Traceback\nKeyError: 'x'"), "ended with exit 1: KeyError: 'x'"),
        (done('"it needs more memory"'), "what the file states: it needs more memory"),
    ],
)
def test_however_the_other_process_ends_it_is_one_error(monkeypatch, ended, named):
    monkeypatch.setattr(isolation, "start", lambda *_, **__: ended)
    with pytest.raises(InputError) as caught:
        Classifier(tiny.grey(), isolate=True)
    assert named in caught.value.found
    assert caught.value.next_step.startswith("do not open the file")


def test_error_names_the_file(monkeypatch, tiny_model):
    monkeypatch.setattr(isolation, "start", lambda *_, **__: done("", -9))
    with pytest.raises(InputError) as caught:
        Classifier(tiny_model, isolate=True)
    assert caught.value.found.startswith(f"{tiny_model}: the golden images")


def test_what_is_wrong_but_takes_no_more_is_left_to_the_selftest():
    model = made.stating("flat = Flatten (images) logits = Gemm <transB = 1> (flat, linear)",
                         {"linear": LINEAR})  # fmt: skip
    opened = Classifier(model, isolate=True)
    assert "golden vectors, batch 1" in {
        check.name for check in selftest.run_selftest(opened) if not check.passed
    }


@pytest.mark.parametrize("asked", [["verify"], ["predict", "--model"], ["bundle"]], ids=str)
def test_ceiling_is_raised_by_an_option(run, monkeypatch, tiny_model, tmp_path, asked):
    monkeypatch.setattr(admission, "MAX_IMAGE_BYTES", 1000)
    (tmp_path / "wide.png").write_bytes(tiny.pictures()[0].encoded)
    picture = [tmp_path / "wide.png"] if asked[0] == "predict" else []
    refused = run(asked[0], *picture, *asked[1:], tiny_model)
    assert refused.exit_code == 2
    assert "one image may take 4,608 bytes, more than 1,000" in refused.output
    assert "--ceiling" in refused.output
    opened = run(asked[0], *picture, *asked[1:], tiny_model, "--ceiling", "30")
    assert opened.exit_code == 0, opened.output


def test_verify_and_the_selftest_of_a_bundle_isolate_but_nothing_that_is_timed(
    run, monkeypatch, tiny_model, tmp_path, brief
):
    from convnet_edge.runtime import __main__ as device

    started = []
    monkeypatch.setattr(isolation, "try_out", lambda *_, **__: started.append(1))
    bundle = tmp_path / "tiny.pyz"
    assert run("bundle", tiny_model, "--out", bundle).exit_code == 0
    picture = tmp_path / "wide.png"
    picture.write_bytes(tiny.pictures()[0].encoded)
    for arguments, n in ((["selftest"], 1), (["predict", str(picture)], 0)):
        del started[:]
        assert device.main(str(bundle), arguments) == 0
        assert len(started) == n, arguments
    del started[:]
    assert run("verify", tiny_model).exit_code == 0
    assert len(started) == 1
    assert run("predict", picture, "--model", tiny_model).exit_code == 0
    assert len(started) == 1
