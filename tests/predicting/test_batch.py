"""Many pictures: each has a row, whatever happens to it, to others, or to the program."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from convnet_edge.data import processes
from convnet_edge.predicting import batch, parts
from convnet_edge.predicting.answers import Answers, Spent
from convnet_edge.predicting.formats import Columns, Csv
from convnet_edge.predicting.options import PredictOptions
from convnet_edge.runtime import Classifier
from convnet_edge.runtime.errors import InputError

N = 150
IMAGES = tiny.images(N)


@pytest.fixture
def pictures(tmp_path):
    """Some pictures, one of them broken."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / f"{index:03}.png")
    (folder / "007.png").write_bytes(b"no picture")
    return folder


def label(pictures, model, out, progress=lambda _: None, **options):
    given = {"model": model, "out": out, "invert": False, "workers": 2, **options}
    return batch.label(PredictOptions((pictures,), **given), progress)


def read(out):
    """Return the rows of all parts, as CSV reads them."""
    found = []
    for path in sorted(out.glob("part-*")):
        if path.suffix == ".parquet":
            from pyarrow import parquet

            found += parquet.read_table(path).to_pylist()
        else:
            with path.open(newline="") as file:
                found += csv.DictReader(file)
    return found


@pytest.fixture(params=["parquet", "csv"])
def form(request):
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
        return {}
    return {"format": "csv"}


def test_every_picture_has_a_row_and_an_unreadable_one_its_error(pictures, tiny_model, tmp_path,
                                                                 form):  # fmt: skip
    out, heard = tmp_path / "out", []
    found = label(pictures, tiny_model, out, heard.append, top=2, digest=True, **form)
    rows = {Path(row["path"]).name: row for row in read(out)}
    assert (found.n, found.n_errors, found.n_new) == (N, 1, N) == (len(rows), 1, N)
    assert heard[-1].n == N
    said = Classifier(tiny_model)(IMAGES)
    for index, (name, row) in enumerate(sorted(rows.items())):
        assert name == f"{index:03}.png"
        if index == 7:
            assert "is not a picture" in row["error"]
            assert {row[key] or None for key in ("label", "score", "index", "sure", "top")} == {
                None
            }
            continue
        top = json.loads(row["top"]) if "format" in form else row["top"]
        assert (row["label"], int(row["index"])) == (said.names[index], said.labels[index])
        assert [one["label"] for one in top] == [one for one, _ in said.top(2)[index]]
        assert float(row["score"]) == pytest.approx(said.top(1)[index][0][1], rel=1e-4)
        assert (row["error"] or None) is None
        assert len(row["sha256"]) == 64
    stated = json.loads((out / parts.STATED).read_text())
    assert stated["model_sha256"] == Classifier(tiny_model).file.sha256
    if "format" not in form:
        from pyarrow import parquet

        whole = parquet.read_table(out)  # the folder, as others read it
        assert whole.num_rows == N
        assert json.loads(whole.schema.metadata[b"convnet_edge"]) == stated


def test_second_start_goes_on_where_the_first_ended(pictures, tiny_model, tmp_path, form):
    out = tmp_path / "out"
    few = pictures.parent / "few.txt"
    few.write_text("\n".join(f"pictures/{index:03}.png" for index in range(40)))
    assert label(few, tiny_model, out, **form).n_new == 40
    before = {path.name: path.read_bytes() for path in out.glob("part-*")}
    found = label(pictures, tiny_model, out, **form)
    assert (found.n, found.n_new, found.n_errors) == (N, N - 40, 1)
    assert before == {name: (out / name).read_bytes() for name in before}
    assert sorted(row["path"] for row in read(out)) == sorted(map(str, pictures.iterdir()))
    again = label(pictures, tiny_model, out, **form)
    assert (again.n, again.n_new, again.limit) == (N, 0, "")
    Image.fromarray(IMAGES[7]).save(pictures / "007.png")
    mended = label(pictures, tiny_model, out, retry_errors=True, **form)
    assert (mended.n, mended.n_new, mended.n_errors) == (N, 1, 0)
    assert len(read(out)) == N


def test_twice_listed_is_twice_answered_and_no_more(pictures, tiny_model, tmp_path):
    (pictures.parent / "twice.txt").write_text("pictures/000.png\npictures/000.png\n")
    listed = pictures.parent / "twice.txt"
    assert label(listed, tiny_model, tmp_path / "out").n == 2
    assert label(listed, tiny_model, tmp_path / "out").n_new == 0


def test_answers_of_another_model_or_other_options_are_refused(pictures, tiny_model, tmp_path):
    out = tmp_path / "out"
    label(pictures, tiny_model, out)
    for changed, what in (({"top": 2}, "columns"), ({"invert": True}, "preprocessing")):
        with pytest.raises(InputError, match=f"answers of another {what}") as caught:
            label(pictures, tiny_model, out, **changed)
        assert "--out" in caught.value.next_step
    other = tmp_path / "other.onnx"
    other.write_bytes(tiny.grey_uint8())
    with pytest.raises(InputError, match="answers of another model"):
        label(pictures, other, out)
    (out / parts.STATED).write_text("{")
    with pytest.raises(InputError, match="damaged"):
        label(pictures, tiny_model, out)
    (out / parts.STATED).unlink()
    with pytest.raises(InputError, match="and no _predictions"):
        label(pictures, tiny_model, out)


def test_damaged_part_says_what_to_do(pictures, tiny_model, tmp_path, form):
    out = tmp_path / "out"
    label(pictures, tiny_model, out, **form)
    (part,) = out.glob("part-*")
    part.write_bytes(part.read_bytes()[:30])
    with pytest.raises(InputError, match="part-000000") as caught:
        label(pictures, tiny_model, out, **form)
    assert "remove it" in caught.value.next_step
    part.unlink()
    assert label(pictures, tiny_model, out, **form).n_new == N


def test_one_process_at_a_time_writes(pictures, tiny_model, tmp_path):
    pytest.importorskip("fcntl")
    first = parts.Parts(tmp_path / "out", Csv(), Columns((), 0, False), {})
    with pytest.raises(InputError, match="another process writes"):
        label(pictures, tiny_model, tmp_path / "out")
    first.close()


@pytest.mark.parametrize("line", ["os.kill(os.getpid(), signal.SIGSEGV)", "os._exit(3)"])
def test_picture_that_ends_its_process_costs_one_row(pictures, tiny_model, tmp_path, monkeypatch,
                                                     line):  # fmt: skip
    crash = (
        "\nimport os, signal\nfrom convnet_edge.predicting import worker\n"
        "real = worker.decode_picture\ndef decode(data, how, *, name, invert):\n"
        "    if '/09' in name and name[-5] in '27':\n"
        f"        {line}\n    return real(data, how, name=name, invert=invert)\n"
        "worker.decode_picture = decode\nfrom importlib"
    )
    monkeypatch.setattr(processes, "START", processes.START.replace("from importlib", crash))
    found = label(pictures, tiny_model, tmp_path / "out")
    assert (found.n, found.n_errors) == (N, 3)
    failed = {
        Path(row["path"]).name: row["error"] for row in read(tmp_path / "out") if row["error"]
    }
    assert failed.keys() == {"007.png", "092.png", "097.png"}
    assert "its decoder crashed" in failed["092.png"]


def test_model_that_changes_meanwhile_ends_it(pictures, tiny_model, tmp_path, monkeypatch):
    real = batch.task_of

    def changing(options, classifier):
        options.model.write_bytes(tiny.grey_uint8())
        return real(options, classifier)

    monkeypatch.setattr(batch, "task_of", changing)
    with pytest.raises(InputError, match="has changed since"):
        label(pictures, tiny_model, tmp_path / "out")


def test_sources_that_cannot_be_read_are_rows(pictures, tiny_model, tmp_path):
    options = PredictOptions(
        (tmp_path / "gone", pictures, tmp_path / "gone.csv"), tiny_model, out=tmp_path / "out"
    )
    found = batch.label(options)
    assert (found.n, found.n_errors) == (N + 2, 3)
    errors = [row["error"] for row in read(tmp_path / "out") if row["error"]]
    assert sum("gone" in one for one in errors) == 2


def test_names_that_are_no_text_are_rows_with_or_without_an_error(tiny_model, tmp_path, form):
    folder = tmp_path / "odd"
    folder.mkdir()
    try:
        Image.fromarray(IMAGES[0]).save(folder / "na\udcffme.png")
    except OSError:
        pytest.skip("this file system takes text alone")
    (folder / "em\udcffpty.png").touch()
    found = label(folder, tiny_model, tmp_path / "out", **form)
    assert (found.n, found.n_errors) == (2, 1)
    rows = {Path(row["path"]).name: row for row in read(tmp_path / "out")}
    assert rows.keys() == {"na\\udcffme.png", "em\\udcffpty.png"}
    assert "em\\udcffpty.png is empty" in rows["em\\udcffpty.png"]["error"]
    assert label(folder, tiny_model, tmp_path / "out", **form).n_new == 0


def test_files_of_others_beside_the_parts_are_left_alone(pictures, tiny_model, tmp_path):
    out = tmp_path / "out"
    label(pictures, tiny_model, out, format="csv")
    (out / "part-of me.csv").write_text("mine")
    (out / "part-1000000.csv").write_text((out / "part-000000.csv").read_text().split("\n")[0])
    assert label(pictures, tiny_model, out, format="csv").n_new == 0
    assert (out / "part-of me.csv").read_text() == "mine"


def test_a_row_that_ends_early_says_which_part(pictures, tiny_model, tmp_path):
    out = tmp_path / "out"
    label(pictures, tiny_model, out, format="csv")
    part = out / "part-000000.csv"
    part.write_text(part.read_text()[:200])
    with pytest.raises(InputError, match=r"part-000000.*remove it"):
        label(pictures, tiny_model, out, format="csv")


def test_from_python_a_folder_has_to_be_named(tiny_model):
    with pytest.raises(InputError, match="no folder for the answers"):
        batch.label(PredictOptions(("a.png",), tiny_model))


def answer(path):
    return Answers([path], {}, np.array([[0]]), np.array([[0.5]]), np.array([False]),
                   np.zeros((1, 0), np.uint8), Spent())  # fmt: skip


def test_parts_are_written_as_time_goes_by(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_ROWS", 10)
    kept = parts.Parts(tmp_path / "out", Csv(), Columns(("a",), 0, False), {})
    monkeypatch.setattr(parts, "FIRST_PART_S", 0.0)
    for index in range(25):
        kept.add(answer(f"{index}"))
    assert len(list((tmp_path / "out").glob("part-*"))) == 2
    monkeypatch.setattr(parts, "PART_ROWS", 1000)
    kept._wait_s = 0.0
    for _ in range(11):
        kept.add(answer("late"))
    kept.close()
    assert len(read(tmp_path / "out")) == 36


@pytest.mark.slow
def test_killed_at_random_moments_the_rows_are_the_same(pictures, tiny_model, tmp_path):
    """`benchmarks/kill_predicting.py` does it a hundred times."""
    out, rng = tmp_path / "out", np.random.default_rng(0)
    code = (
        "import sys; from convnet_edge.predicting import parts; parts.PART_ROWS = 9\n"
        "from convnet_edge.__main__ import main; main()"
    )
    command = [sys.executable, "-c", code, "predict", pictures, "--model", tiny_model, "--out", out,
               "--workers", "2"]  # fmt: skip
    n_killed = 0
    for _ in range(4):
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            deadline = time.monotonic() + 30
            wanted = len(list(out.glob("part-*"))) + 1 + rng.integers(0, 3)
            while process.poll() is None and time.monotonic() < deadline:
                if len(list(out.glob("part-*"))) >= wanted:
                    process.send_signal(signal.SIGKILL)
                    n_killed += 1
                    break
            process.wait(30)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{N} pictures" in done.stdout
    assert n_killed
    assert sorted(row["path"] for row in read(out)) == sorted(map(str, pictures.iterdir()))
    assert not list(out.glob(".part*"))


def test_ctrl_c_keeps_what_is_there(pictures, tiny_model, tmp_path):
    def stop(found):
        if found.n >= 20:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    batch.TOLD_EVERY_S, before = 0.0, batch.TOLD_EVERY_S
    try:
        with pytest.raises(KeyboardInterrupt):
            label(pictures, tiny_model, out, stop)
    finally:
        batch.TOLD_EVERY_S = before
    assert len(read(out)) >= 20
    assert label(pictures, tiny_model, out).n == N


FULL = """
set -e
mount -t tmpfs -o size=72k tmpfs "$1"
"$2" -c "
from convnet_edge.predicting import parts; parts.FIRST_PART_S, parts.PART_ROWS = 0.0, 25
import sys; from convnet_edge.__main__ import main; main()" "${@:3}" || echo "exit $?"
ls -A "$1/out"
mount -o remount,size=1m "$1"
"$2" -m convnet_edge "${@:3}"
cp -r "$1/out" "$1.kept"
"""


@pytest.mark.slow
def test_full_disk_leaves_whole_parts_and_the_same_command_goes_on(pictures, tiny_model, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    filled = "x" * 1000  # of the shell's own
    command = ["predict", pictures, "--out", small / "out", "--model", tiny_model, "--format",
               "csv", "--digest", "--top", "10"]  # fmt: skip
    program = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", FULL, filled, small,
               sys.executable, *command]  # fmt: skip
    can = subprocess.run([*program[:4], "true"], capture_output=True)
    if can.returncode:
        pytest.skip("no mounts of one's own here")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(program, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "exit 2" in done.stdout
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert ".part" not in done.stdout, "half a part was left"
    rows = read(tmp_path / "small.kept")
    assert len(rows) == len({row["path"] for row in rows}) == N


def test_picture_whose_disk_fails_is_a_row(pictures, tiny_model, tmp_path):
    if not Path("/proc/self/mem").exists():
        pytest.skip("nothing here that opens and cannot be read")
    (pictures / "bad sector.png").symlink_to("/proc/self/mem")
    found = label(pictures, tiny_model, tmp_path / "out")
    assert (found.n, found.n_errors) == (N + 1, 2)
    errors = [row["error"] for row in read(tmp_path / "out") if row["error"]]
    assert any("Input/output error" in error for error in errors), errors


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"digest": True}, "digest without out"),
        ({"workers": 3}, "workers without out"),
        ({"retry_errors": True}, "retry_errors without out"),
        ({"strict": True}, "strict without out"),
        ({"out": "x", "images": ()}, "out without pictures"),
        ({"out": "answers.csv"}, "answers.csv: one file for all answers"),
    ],
)
def test_options_of_many_pictures_go_together(options, found):
    with pytest.raises(InputError, match=found):
        PredictOptions(**{"images": ("a.png",), **options})


def test_nothing_readable_is_exit_2_with_a_way_on(run, tiny_model, tmp_path):
    (tmp_path / "empty").mkdir()
    command = ("predict", tmp_path / "empty", "--model", tiny_model, "--out", tmp_path / "out")
    result = run(*command)
    assert result.exit_code == 2
    assert "none of 1 pictures could be read; expected at least one; next: see" in result.stderr
    assert "pictures/s\n" in result.stdout
    assert run(*command, "--strict").exit_code == 1
    assert json.loads(run(*command, "--json").stdout)["n_errors"] == 1


def test_command_says_how_many_and_what_limits(run, pictures, tiny_model, tmp_path):
    command = ("predict", pictures, "--model", tiny_model, "--out", tmp_path / "out")
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert f"{N} pictures in" in result.stdout
    assert "pictures/s: " in result.stdout
    assert "--retry-errors" in result.stderr
    assert run(*command, "--strict").exit_code == 1
    said = json.loads(run(*command, "--json").stdout)
    assert (said["n"], said["n_errors"], said["n_new"]) == (N, 1, 0)
