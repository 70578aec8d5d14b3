"""Results of unknown origin: what is written is read whole, what is wrong is refused by its key."""

import json
import os

import numpy as np
import pytest
import results as made

from convnet_edge.reporting import read
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.files import as_json
from convnet_edge.runtime.measure import accuracy
from convnet_edge.runtime.measure.stats import percentiles_ms

BROKEN = {
    "truncated": json.dumps(made.document()).encode()[:-100],
    "not UTF-8": b'{"schema": "\xff"}',
    "too deep": b"[" * 200_000,
    "deep inside of a result": json.dumps(made.document(settings={"x": 0}))
    .replace('"x": 0', f'"x": {"[" * 600}{"]" * 600}')
    .encode(),
    "a vast number": b'{"schema": ' + b"9" * 5000 + b"}",
    "nothing": b"",
    "a list": b"[1, 2]",
    "another schema": b'{"schema": "convnet-edge/checkpoint/1"}',
    "a schema that is no text": b'{"schema": ["convnet-edge/bench/3"]}',
}
WRITTEN = "what `convnet-edge bench` writes there"
WRONG = {
    "model": ({"model": "x"}, "model"),
    "negative": ({"peak_memory_bytes": -1}, "peak_memory_bytes"),
    "negative in a list": ({"latency": [{"samples_ns": [5, -5]}]}, "latency[0].samples_ns[1]"),
    "negative by name": (
        {"cold_start__processes": [{"p50_ms": {"1": -1.0}}]},
        "cold_start.processes[0].p50_ms.1",
    ),
    "not a number": ({"cost__bound_ms": float("nan")}, "cost.bound_ms"),
    "too large for a float": ({"cost__bound_ms": 10**400}, "cost.bound_ms"),
    "batch size 0": ({"latency": [{"batch_size": 0}]}, "latency[0].batch_size"),
    "a share above 1": ({"accuracy__accuracy": 7.0}, "accuracy.accuracy"),
    "another share": ({"accuracy__accuracy": 0.95}, "accuracy.accuracy"),
    "more right than all": ({"accuracy__n_correct": 10_001}, "accuracy.accuracy"),
    "a ragged matrix": ({"accuracy__confusion": [[1, 2], [3]]}, "accuracy.confusion"),
    "no matrix of few classes": ({"accuracy__confusion": []}, "accuracy.confusion"),
}


def test_what_is_written_is_read_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(as_json(made.full())))
    assert made.read(path) == made.full()


def test_matrix_of_many_classes_that_an_older_file_holds_becomes_its_worst_pairs(tmp_path):
    truth, said = np.random.default_rng(0).integers(0, 31, (2, 900))
    score = accuracy.score(said, truth, tuple(map(str, range(31))))
    matrix = np.zeros((31, 31), int)
    np.add.at(matrix, (truth, said), 1)
    old = as_json(score) | {"confusion": matrix.tolist()}
    del old["confused"]
    assert made.read(made.write(tmp_path, accuracy=old)).accuracy == score


def test_keys_of_other_versions_are_dropped_and_negative_degrees_are_not(tmp_path):
    plain = made.read(made.write(tmp_path, machine__temperature_c=-5.5))
    path = made.write(tmp_path, machine__temperature_c=-5.5, later=1, model__later=[1])
    assert made.read(path) == plain


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\."):
        made.read(path)


@pytest.mark.parametrize(("changes", "key"), WRONG.values(), ids=WRONG)
def test_value_of_wrong_type_or_range_is_refused_by_its_key(tmp_path, changes, key):
    path = made.write(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        made.read(path)
    assert caught.value.found.startswith(f"{path}: {key} is ")


@pytest.mark.parametrize(
    ("changes", "found", "expected"),
    [
        ({"model__model_bytes": 1.5}, "model.model_bytes is 1.5", "a valid integer"),
        ({"model__name": None}, "model.name is null", "a valid string"),
        ({"provider__threads": True}, "provider.threads is true", "a valid integer"),
        ({"interrupted": "no"}, 'interrupted is "no"', "a valid boolean"),
        ({"latency": {"a": 1}}, 'latency is {"a": 1}', "a valid array"),
        ({"model": made.DELETE}, "model is missing", WRITTEN),
        ({"accuracy__accuracy": 7.0}, "accuracy.accuracy is 7", "9,323 of 10,000, which are right"),
        ({"verdict__status": "X"}, 'verdict.status is "X"', "'VALID', 'NOISY' or 'INVALID'"),
        ({"settings__a": ["x"]}, 'settings.a is ["x"]', "a number, string, boolean, null, or an "
         "array of integers"),
        ({"latency": [{"batch_size": 1, "n_runs": 1, "histogram_ns": [[1, 2, 3]]}]},
         "latency[0].histogram_ns[0] is [1, 2, 3]", WRITTEN),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_words_and_as_the_file_has_it(tmp_path, changes, found, expected):
    path = made.write(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        made.read(path)
    assert (caught.value.found, caught.value.expected) == (f"{path}: {found}", expected)


@pytest.mark.parametrize(("number", "advice"), [(4, "or a newer one"), (2, "measure again")])
def test_other_schema_says_what_helps(tmp_path, number, advice):
    path = made.write(tmp_path, schema=f"convnet-edge/bench/{number}")
    with pytest.raises(InputError, match=f"schema {number}") as caught:
        made.read(path)
    assert advice in caught.value.next_step


def test_file_above_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_RESULT_BYTES", 1000)
    with pytest.raises(InputError, match="larger"):
        made.read(made.write(tmp_path))


def test_text_that_could_mislead_a_reader_is_made_visible(tmp_path):
    path = made.write(tmp_path, model__name="a\u202eb\x00c\ud800\nd")
    assert made.read(path).model.name == "a\ufffdb\ufffdc\ufffd\ufffdd"


@pytest.mark.parametrize(
    ("samples_ns", "row", "status", "reasons"),
    [
        (range(900_000, 900_200), {}, "VALID", set()),
        ([900_000] * 5, {}, "INVALID", {"too few runs"}),
        ([900_000] * 50, {"timer_step_ns": 100_000.0}, "INVALID", {"coarse timer"}),
        ([900_000] * 50, {"largest_output_error": 0.1}, "INVALID", {"wrong outputs"}),
        ([900_000] * 50 + [1_900_000] * 50, {}, "NOISY", {"drift"}),
    ],
)
def test_raw_samples_as_of_the_web_page_are_judged_by_benchs_rules(
    tmp_path, samples_ns, row, status, reasons
):
    raw = {"batch_size": 1, "n_runs": len(samples_ns), "samples_ns": [*samples_ns]}
    raw |= {"n_outputs_checked": 1, "largest_output_error": 1e-6, "timer_step_ns": 5000.0}
    found = made.read(made.write(tmp_path, latency=[raw | row], verdict=None))
    assert found.verdict.status == found.latency[0].verdict.status == status
    assert reasons <= {one.name for one in found.verdict.reasons if one.batch_size == 1}
    assert found.latency[0].percentiles_ms == percentiles_ms(np.array(samples_ns))


def test_folder_gives_its_bench_results_once_and_passes_over_other_files(tmp_path):
    for name in ("b.json", "a.json"):
        made.write(tmp_path, name)
    (tmp_path / "other.json").write_text('{"schema": "convnet-edge/accuracy-benchmark/1"}')
    (tmp_path / "plain.json").write_text("[]")
    (tmp_path / "x.txt").write_text("{")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")  # that nobody writes to
    made.write(tmp_path / "folder.json", "deeper.json")
    found = read.read_results([tmp_path, tmp_path / "b.json"])
    assert [path.name for path in found] == ["a.json", "b.json"]
    (tmp_path / "c.json").write_bytes(BROKEN["truncated"])
    with pytest.raises(InputError, match=r"c\.json is no JSON"):
        read.read_results([tmp_path])
    (tmp_path / "c.json").write_bytes(b"\x08\x0a\xff\xfe\x12")
    with pytest.raises(InputError, match="its bytes are no text; expected a whole result file of"):
        read.read_results([tmp_path])
