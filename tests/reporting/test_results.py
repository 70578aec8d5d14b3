import json
import os
from pathlib import Path

import pytest
import results as made

from convnet_edge.reporting import results
from convnet_edge.runtime.errors import InputError

REFERENCE_DIR = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "reference"
SCHEMA_1 = Path(__file__).resolve().parents[1] / "data" / "bench-schema-1.json"
BROKEN = {
    "truncated": json.dumps(made.document()).encode()[:-100],
    "not UTF-8": b'{"schema": "\xff"}',
    "too deep": b"[" * 200_000,
    "a vast number": b'{"schema": ' + b"9" * 5000 + b"}",
    "nothing": b"",
    "a list": b"[1, 2]",
    "another schema": b'{"schema": "convnet-edge/checkpoint/1"}',
    "schema 0": b'{"schema": "convnet-edge/bench/0"}',
    "a schema that is no text": b'{"schema": ["convnet-edge/bench/2"]}',
}
WRONG = {
    "model": ({"model": "x"}, "model"),
    "name": ({"model__name": 3}, "model.name"),
    "bytes": ({"model__model_bytes": "many"}, "model.model_bytes"),
    "a fraction of a byte": ({"model__model_bytes": 1.5}, "model.model_bytes"),
    "a flag as a count": ({"provider__threads": True}, "provider.threads"),
    "negative": ({"peak_memory_bytes": -1}, "peak_memory_bytes"),
    "above one": ({"accuracy__accuracy": 1.1}, "accuracy.accuracy"),
    "no accuracy": ({"accuracy__accuracy": None}, "accuracy.accuracy"),
    "not a number": ({"cost__bound_ms": float("nan")}, "cost.bound_ms"),
    "infinite": ({"cost__bound_ms": float("inf")}, "cost.bound_ms"),
    "too large for a float": ({"cost__bound_ms": 10**400}, "cost.bound_ms"),
    "rows as an object": ({"latency": {}}, "latency"),
    "a null row": ({"latency": [None]}, "latency[0]"),
    "batch size 0": ({"latency": [{"batch_size": 0}]}, "latency[0].batch_size"),
    "three in a bin": (
        {"latency": [{"batch_size": 1, "histogram_ns": [[1, 2, 3]]}]},
        "latency[0].histogram_ns[0]",
    ),
    "an unknown verdict": ({"verdict__status": "GREAT"}, "verdict.status"),
    "a ragged matrix": ({"accuracy__confusion": [[1, 2], [3]]}, "accuracy.confusion"),
    "operators": ({"provider__placement": {"cpu": "Conv"}}, "provider.placement.cpu"),
    "versions": ({"machine__versions": {"numpy": 2}}, "machine.versions.numpy"),
    "endless text": ({"failed": "x" * 20_001}, "failed"),
}


def keys(value):
    """Return the nested keys of objects, without those of lists."""
    return {k: keys(v) for k, v in value.items()} if isinstance(value, dict) else None


def test_result_of_schema_2_keeps_what_was_measured(tmp_path):
    written = made.document()
    read = results.read_result(made.write(tmp_path)).document
    for name in ("model", "provider", "accuracy", "cold_start", "verdict", "paced"):
        assert read[name] == written[name]
    assert read["latency"][0]["samples_ns"] == written["latency"][0]["samples_ns"]


def test_result_of_schema_1_takes_the_shape_of_schema_2(tmp_path):
    old = results.read_result(SCHEMA_1)
    new = results.read_result(made.write(tmp_path))
    assert (old.schema_version, new.schema_version) == (1, 2)
    assert old.document.keys() == new.document.keys()
    assert keys(old.document["machine"]).keys() == keys(new.document["machine"]).keys()
    assert old.document["latency"][0].keys() == new.document["latency"][0].keys()
    for missing in ("cost", "paced", "verdict"):
        assert old.document[missing] is None
    assert old.document["throughput"] == old.document["profile"] == []
    session = json.loads(SCHEMA_1.read_text())["session"]
    (process,) = old.document["cold_start"]["processes"]
    assert process["session_ms"] == session["create_ms"]
    assert process["first_run_ms"] == session["first_run_ms"]
    assert process["total_ms"] is None


@pytest.mark.parametrize("name", ["accuracy", "latency", "cold_start", "verdict", "machine"])
def test_result_without_a_part_is_read(tmp_path, name):
    document = results.read_result(made.write(tmp_path, **{name: made.DELETE})).document
    empty = {"latency": [], "machine": results.MACHINE.fit(None, "")}
    assert document[name] == empty.get(name)


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.json"):
        results.read_result(path)


@pytest.mark.parametrize(("changes", "key"), WRONG.values(), ids=WRONG)
def test_value_of_wrong_type_or_range_is_refused_by_its_key(tmp_path, changes, key):
    path = made.write(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        results.read_result(path)
    assert caught.value.found.startswith(f"{path}: {key} is ")


def test_older_result_with_a_wrong_session_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"schema": "convnet-edge/bench/1", "session": [1]}))
    with pytest.raises(InputError, match="session is a list"):
        results.read_result(path)


def test_newer_schema_is_refused_as_newer(tmp_path):
    path = made.write(tmp_path, schema="convnet-edge/bench/3")
    with pytest.raises(InputError, match="schema 3, newer than this version"):
        results.read_result(path)


def test_file_above_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "MAX_RESULT_BYTES", 1000)
    with pytest.raises(InputError, match="larger"):
        results.read_result(made.write(tmp_path))


def test_text_that_could_mislead_a_reader_is_made_visible(tmp_path):
    path = made.write(tmp_path, model__name="a\u202eb\x00c\ud800\nd")
    assert results.read_result(path).document["model"]["name"] == "a\ufffdb\ufffdc\ufffd d"


def test_folder_gives_its_bench_results_and_passes_over_other_files(tmp_path):
    made.write(tmp_path, "b.json")
    made.write(tmp_path, "a.json")
    (tmp_path / "other.json").write_text('{"schema": "convnet-edge/accuracy-benchmark/1"}')
    (tmp_path / "plain.json").write_text("[]")
    (tmp_path / "x.txt").write_text("{")
    (tmp_path / "folder.json").mkdir()
    made.write(tmp_path / "folder.json", "deeper.json")
    found = results.read_results([tmp_path, tmp_path / "b.json"])
    assert [result.path.name for result in found] == ["a.json", "b.json"]


def test_folder_with_a_truncated_file_is_refused(tmp_path):
    made.write(tmp_path)
    (tmp_path / "b.json").write_bytes(BROKEN["truncated"])
    with pytest.raises(InputError, match=r"b\.json is no JSON"):
        results.read_results([tmp_path])


@pytest.mark.parametrize("given", [(), (Path("empty"),)])
def test_no_result_at_all_says_how_to_make_one(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    with pytest.raises(InputError, match="convnet-edge bench"):
        results.read_results(given)


def test_results_without_argument_come_from_the_results_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    made.write(folder)
    assert [result.path for result in results.read_results(())] == [
        Path("benchmarks/results/a.json")
    ]


@pytest.mark.skipif(os.name != "posix", reason="POSIX's devices")
def test_device_as_result_is_refused():
    with pytest.raises(InputError, match="not a regular file"):
        results.read_results([Path("/dev/zero")])
