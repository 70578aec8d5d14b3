"""Whatever a file of a few megabytes says, reading it ends soon and takes little memory."""

import resource
import subprocess
import sys

import faults
import numpy as np
import pytest
import tiny

from convnet_edge.runtime import contract
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.model_file import open_model
from convnet_edge.runtime.protobuf import MAX_FIELDS, field

MEMORY_LIMIT, MAX_SECONDS = 2 << 30, 10
GRAPH = faults.unsealed(tiny.grey())
DOCUMENT = open_model(tiny.grey()).contract.document
N_BYTES = 24 << 20
OPEN = """
import sys, time
from pathlib import Path
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.model_file import open_model
for path in sys.argv[1:]:
    started = time.perf_counter()
    try:
        open_model(Path(path))
    except InputError as error:
        print(time.perf_counter() - started, error.found)
"""


def in_the_graph(content):
    """Return the model with more in its graph, as one field: a second graph is refused."""
    proto = tiny.graph(tiny.GREY, "float32")
    graph = proto.graph.SerializeToString() + content
    proto.ClearField("graph")
    return contract.seal(proto.SerializeToString() + field(7, graph), DOCUMENT)


def many(part):
    return part * (N_BYTES // len(part))


def many_large_samples():
    blank = contract.encode_pixels(np.zeros((4096, 4096), np.uint8))
    sample = {"name": "blank", "encoded": "", "pixels": blank}
    stated = {**DOCUMENT, "input": {**DOCUMENT["input"], "shape": [1, 4096, 4096]}}
    goldens = {**DOCUMENT["goldens"], "logits": [[0, 0, 0]], "indices": [0], "images": blank}
    samples = {**DOCUMENT["preprocessing"], "size": [4096, 4096], "samples": [sample] * 180}
    return contract.seal(GRAPH, {**stated, "goldens": goldens, "preprocessing": samples})


def test_reading_any_file_is_bounded_in_time_and_memory(tmp_path):
    large = {
        "metadata": (
            contract.seal(GRAPH + many(field(14, field(1, b"key"))), DOCUMENT), "fields"
        ),
        "nodes": (in_the_graph(many(field(1, b""))), "fields"),
        "inputs": (in_the_graph(field(1, many(field(1, b"")))), "fields"),
        "dims": (in_the_graph(field(5, field(1, bytes(N_BYTES)))), "fields"),
        "name": (in_the_graph(field(5, field(8, many(b"name")))), "a name of"),
        "samples": (many_large_samples(), "180 sample pictures"),
    }  # fmt: skip
    for name, (content, _) in large.items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", OPEN, *(tmp_path / name for name in large)],
        capture_output=True, text=True, timeout=MAX_SECONDS * len(large),
        env={"PYTHONPATH": ":".join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]
    for (_, named), line in zip(large.values(), done.stdout.splitlines(), strict=True):
        duration_s, _, found = line.partition(" ")
        assert named in found
        assert float(duration_s) < MAX_SECONDS, line


def test_limit_holds_for_a_message_with_all_within_it():
    inner = field(1, b"") * (MAX_FIELDS // 100)
    with pytest.raises(InputError, match=f"more than {MAX_FIELDS:,} fields"):
        open_model(in_the_graph(field(1, inner) * 101))


def test_a_field_that_other_readers_take_for_another_is_refused():
    """They drop the bits above 32 of a tag: this field 2**29 + 1 of the graph is a node to them."""
    hidden = field((1 << 29) + 1, field(4, b"Relu"))
    with pytest.raises(InputError, match="field 536870913"):
        open_model(in_the_graph(hidden))


def test_shape_of_many_axes_is_refused():
    dims = field(1, field(1, 1 << 62)) * 300
    value = field(1, b"v") + field(2, field(1, field(2, dims)))
    with pytest.raises(InputError, match="a shape of 300 axes"):
        open_model(in_the_graph(field(13, value)))
