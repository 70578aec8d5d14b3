"""The table of architectures says what was measured, and what is measured again is the same."""

import importlib.util

import architectures
import pytest

from convnet_edge.sealing import parity

ROWS = {row["name"]: row for row in architectures.stored()["rows"]}


def test_page_is_made_from_the_stored_result():
    assert architectures.PAGE.read_text() == architectures.page(architectures.stored())


def test_every_architecture_exports_within_the_tolerance():
    for name, row in ROWS.items():
        assert "refused" not in row, name
        assert row["max_error"] <= parity.TOLERANCE_FACTOR * row["torch_error"], name
        assert row["ir_version"] == parity.IR_VERSIONS[row["opset"]], name


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures.SAMPLE)
def test_architecture_measured_again_is_as_the_table_says(name):
    if name.startswith("timm:") and not importlib.util.find_spec("timm"):
        pytest.skip("timm is not installed")
    found = architectures.measure(name)
    known = ("side", "n_parameters", "opset", "ir_version", "operators", "n_multiplications")
    assert {key: found[key] for key in known} == {key: ROWS[name][key] for key in known}
    assert found["max_error"] <= parity.TOLERANCE_FACTOR * found["torch_error"]
    assert found["row_invariance"] <= parity.TOLERANCE_FACTOR * found["torch_error"]
