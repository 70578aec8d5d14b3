"""The screen of a bench; what its tables hold is tested with them."""

import dataclasses

import results as made

from convnet_edge.runtime.measure import screen
from convnet_edge.runtime.measure.result import Interval, Reason, Verdict
from convnet_edge.runtime.measure.tables import WIDTH


def model(name, *, status="VALID", reasons=(), batch_ms=None, **changes):
    """Return a finished result of a model of this name."""
    whole = made.full(batch_ms or {1: 0.08, 8: 0.5, 64: 2.6, 256: 11.0})
    changes = {
        "failed": None,
        "pairs": (),
        "races": (),
        "verdict": Verdict(status, reasons),
        **changes,
    }
    return dataclasses.replace(whole, model=dataclasses.replace(whole.model, name=name), **changes)


DRIFT = Reason(**made.NOISY | {"batch_size": 8})
NAMED = (
    "fashion-mnist.int8-ort.onnx",
    "a-very-long-name-of-a-model-" * 4 + ".int8.onnx",
    "衣服.onnx",
)


def lines_of(*results, verbose=False):
    """Return the lines of a bench's first screen, as they come."""
    lines = []
    shown = screen.Screen(lambda *said: lines.extend(said), verbose=verbose)
    for one in results:
        shown.opened(one)
        for n_timed in range(1, len(one.latency) + 1):
            shown.timed(dataclasses.replace(one, latency=one.latency[:n_timed]))
        shown.ended(one)
    return lines


def test_first_screen_names_a_model_once_and_ends_with_its_verdict():
    found = lines_of(
        model(NAMED[0]),
        model(NAMED[1], status="NOISY", reasons=(DRIFT,) * 3),
        model(NAMED[2], accuracy=None, cold_start=None),
    )
    assert max(map(len, found)) <= WIDTH
    assert found[1].split() == [
        "model", "batch", "p50", "ms", "p99", "ms", "images/s", "accuracy", "memory",
    ]  # fmt: skip
    assert found[2].split()[:3] == ["fashion-mnist.int8-ort.onnx", "1", "0.0807"]
    assert [line.split()[0] for line in found[3:6]] == ["8", "64", "256"]
    assert len({len(line) for line in found[3:6]}) == 1  # numbers are set to the right
    assert found[6] == "  VALID"
    assert found[7].startswith("a-very")
    assert ".int8.onnx" in found[7]  # what tells names apart is at both ends
    assert "  NOISY: drift at batch 8 (14.0 % > 10 %); 2 more with --verbose" in found
    assert len(found) == 2 + 3 * 5


def test_first_screen_compares_with_the_first_model():
    pair = dataclasses.replace(made.full().pairs[0], name=NAMED[0], n_lost=90, mcnemar_p=1e-9)
    line = " ".join(lines_of(model("b.onnx", pairs=(pair,)))[-2:])
    assert line.startswith(f"against {NAMED[0]}: ")
    assert "90 right answers lost" in line
    assert "; shown: worse (exact McNemar p = " in line


def test_first_screen_says_which_to_deploy_in_lines_that_fit():
    (race,) = made.full().races
    interval = Interval(1.9, 2.1)
    races = [
        dataclasses.replace(
            race, name="b.int8.onnx", other=NAMED[0], ratio=2.0, ratio_interval_95=interval
        )
    ] * 4
    said = lines_of(model("b.int8.onnx", races=races))
    whole = f"on machines like this one deploy b.int8.onnx: faster than {NAMED[0]} in all 4 uses "
    assert whole + "(2.00 ×)" in " ".join(said)
    assert max(map(len, said)) <= WIDTH


def test_what_follows_a_long_reason_is_never_cut():
    for name in ("interrupted runs", "a reason of quite a few words, " * 3):
        worst = Reason(name, "NOISY", 0.499, 0.01, "", 256)
        line = lines_of(model("a.onnx", status="NOISY", reasons=(worst,) * 12))[-1]
        assert line.endswith("; 11 more with --verbose")
        assert len(line) <= WIDTH
        assert ("…" in line) == ("words" in name)


def test_answer_in_one_line_has_speed_memory_and_verdict():
    line = screen.in_one_line(model("a.onnx"))
    assert line.startswith("a.onnx: p50 0.0807 ms at batch 1, ")
    assert line.endswith(": VALID")


def test_verbose_shows_everything_instead():
    found = "\n".join(lines_of(model("a.onnx"), verbose=True))
    parts = (
        "Model\n", "Provider\n", "Cost of an image", "Checks before timing", "Cold start",
        "Time of a run, one caller", "Calibration", "Throughput", "verdict: VALID",
    )  # fmt: skip
    assert [found.count(part) for part in parts] == [1] * len(parts)
    assert "Profile" not in found  # of the nodes, which is asked for
    assert "Confusion" not in found
