import json
import os

import faults
import foreign
import made
import numpy as np
import onnxruntime
import pytest
import tiny
from onnx import TensorProto

from convnet_edge.runtime import Classifier
from convnet_edge.runtime.elsewhere import given, unproved
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.model_file import open_model
from convnet_edge.runtime.options import UnprovedOptions
from convnet_edge.runtime.selftest import largest_error, run_selftest

# a shape that only a run finds, so that the one is believed that the file states
FILLED = """n = Shape <start = 0, end = 1> (images) more = Add (n, many)
    huge = ConstantOfShape (more) last = Unsqueeze (huge, row)
    means = ReduceMean <keepdims = 0> (last, both) flat = Flatten (images)
    raw = Gemm <transB = 1> (flat, linear) logits = Add (raw, means)"""
ARRAYS = {"row": [0], "both": [0, 1], "linear": made.draw(3, 64)}


@pytest.fixture
def opened(tmp_path):
    """Open a graph as a file from elsewhere."""

    def open_graph(graph, **said):
        path = tmp_path / "theirs.onnx"
        path.write_bytes(graph)
        return unproved.open_any(path, UnprovedOptions(**said))

    return open_graph


@pytest.mark.parametrize(
    "change",
    [
        lambda _: None,
        foreign.as_older_exporters_do,
        foreign.forget_output_shape,
        foreign.copy_weights,
        foreign.fix_batch(1),
    ],
)
def test_classifiers_of_other_exporters_are_taken_as_they_are(opened, change):
    graph = foreign.grey(change)
    file = opened(graph)
    classifier = Classifier(file)
    logits = classifier.logits(tiny.images(20))
    assert largest_error(logits, tiny.logits(tiny.images(20))) < tiny.TOLERANCE
    assert file.data == graph
    assert file.contract.proof == "unproved"
    assert file.contract.class_labels == ("class 0", "class 1", "class 2")


def test_selftest_claims_no_digest_and_no_preprocessing_but_compares_outputs(opened):
    digest, *goldens, pictures = run_selftest(Classifier(opened(foreign.rgb())))
    assert digest.skipped
    assert pictures.skipped
    assert all(check.passed for check in goldens)
    assert [check.name for check in goldens] == [
        "golden vectors, batch 1", f"golden vectors, batch {unproved.MAX_IMAGES}",
    ]  # fmt: skip


def test_wrong_outputs_of_a_provider_are_found_without_a_proof(opened, monkeypatch):
    classifier = Classifier(opened(foreign.grey()))
    run = classifier.session.run
    monkeypatch.setattr(classifier.session, "run", lambda batch: run(batch) + np.float32(1e-4))
    assert not any(check.passed for check in run_selftest(classifier))


def test_uint8_graph_takes_grey_values(opened):
    classifier = Classifier(opened(faults.unsealed(tiny.grey_uint8())))
    error = largest_error(classifier.logits(tiny.images(9)), tiny.logits(tiny.images(9)))
    assert error < tiny.TOLERANCE


def test_fixed_batch_of_one_runs_images_one_by_one(opened):
    file = opened(foreign.grey(foreign.fix_batch(1)))
    assert file.takes_one
    classifier = Classifier(file)
    assert classifier.batch_size == 1
    assert len(classifier.logits(tiny.images(5), batch_size=4)) == 5


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ([foreign.second_input], "inputs 'images', 'mask' and outputs 'logits'"),
        ([foreign.second_output], "outputs 'logits', 'features'"),
        ([foreign.input_shape("batch", 224, 224, 3)], r"\(batch, 224, 224, 3\): NHWC"),
        ([foreign.input_shape("batch", 4, 8, 8)], r"the input \(batch, 4, 8, 8\);"),
        ([foreign.input_shape("batch", 784)], "which is no image"),
        ([foreign.fix_batch(8)], "a batch fixed at 8 images"),
        ([foreign.free_sides], "whose height and width are free.*add image_size"),
        ([foreign.output_of(TensorProto.FLOAT16, "batch", 3)], "an output of type float16"),
        ([foreign.output_of(TensorProto.FLOAT, "batch", 3, 1, 1)], r"output \(batch, 3, 1, 1\)"),
    ],
)
def test_other_graphs_are_refused_by_what_they_have(opened, changes, found):
    with pytest.raises(InputError, match=found) as refused:
        opened(foreign.grey(*changes))
    assert refused.value.found.count("theirs.onnx") == 1


def unknown_operation(proto):
    proto.graph.node[0].op_type = "NoSuchOperation"


def functions_of_its_own(proto):
    proto.functions.add(name="f", domain="theirs")


@pytest.mark.parametrize("change", [unknown_operation, functions_of_its_own])
def test_refused_file_sends_no_one_to_an_export_that_did_not_write_it(opened, change):
    with pytest.raises(InputError) as refused:
        opened(foreign.grey(change))
    assert refused.value.next_step == given.EXPORT_OTHERWISE


@pytest.mark.parametrize("said", [{"image_size": (8,)}, {"image_size": (8, 8)}])
def test_free_sides_take_the_size_that_is_said(opened, said):
    file = opened(foreign.grey(foreign.free_sides), **said)
    assert file.contract.preprocessing.size == (8, 8)
    assert Classifier(file).logits(tiny.images(2)).shape == (2, 3)


def test_size_may_come_with_the_preprocessing_and_must_be_the_graph_s(opened, tmp_path):
    how = foreign.say(tmp_path, size=[8, 8], share=0.875)
    file = opened(foreign.grey(foreign.free_sides), preprocessing=how)
    assert file.contract.preprocessing.share == 0.875
    with pytest.raises(InputError, match=r"images of 9 x 9 for the input .*expected 8 x 8"):
        opened(foreign.grey(), image_size=(9,))


def test_mean_and_deviation_reach_the_graph(opened, tmp_path):
    graph = foreign.rgb()
    how = foreign.say(tmp_path, mean=foreign.MEAN, std=foreign.STD)
    images = tiny.images(7, tiny.RGB)
    pixels = ((images / 255 - foreign.MEAN) / foreign.STD).astype(np.float32)
    session = onnxruntime.InferenceSession(graph)
    (expected,) = session.run(None, {"images": pixels.transpose(0, 3, 1, 2)})
    found = Classifier(opened(graph, preprocessing=how)).logits(images)
    assert largest_error(found, expected) < 1e-4
    assert largest_error(Classifier(opened(graph)).logits(images), expected) > 1e-2


def test_outputs_after_a_softmax_are_probabilities_as_they_are(opened):
    plain, soft = (
        Classifier(opened(foreign.grey(*changes)))(tiny.images(5))
        for changes in ((), (foreign.end_in_softmax,))
    )
    assert largest_error(soft.probabilities, plain.probabilities) < 1e-6
    assert (soft.labels == plain.labels).all()


def test_what_inspect_prints_of_a_preprocessing_is_read_again(opened, tmp_path):
    how = foreign.say(tmp_path, mean=foreign.MEAN, std=foreign.STD, fit="pad", filter="bicubic")
    stated = opened(foreign.rgb(), preprocessing=how).contract.document["preprocessing"]
    whole = tmp_path / "inspect.json"
    whole.write_text(json.dumps({"schema": "convnet-edge/inspect/1", "contract": {
        "preprocessing": stated}}))  # fmt: skip
    assert opened(foreign.rgb(), preprocessing=whole).contract.document["preprocessing"] == stated


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("[1]", "holds list, no object"),
        ('{"mean": [0.5', "is no JSON"),
        ('{"meen": [0.5]}', "has the key 'meen'.*write 'mean'"),
        ('{"mean": [0.5, 0.5, 0.5]}', "std is null; expected 3 numbers"),
        ('{"mean": [0.5], "std": [0.5]}', r"mean is \[0.5\]; expected 3 numbers"),
        ('{"mean": [123, 117, 104], "std": [1, 1, 1]}', "from 0 to 1, of pixels in"),
        ('{"mean": [0, 0, 0], "std": [1, 0, 1]}', r"std is \[1, 0, 1\]"),
        ('{"mean": [0, 0, true], "std": [1, 1, 1]}', "mean is"),
        ('{"fit": "squeeze"}', "fit 'squeeze', not of"),
        ('{"share": 1.5}', "share 1.5, not above 0"),
        ('{"share": "half"}', "share"),
        ('{"channels": 1}', "channels is 1; expected 3, as the graph takes it"),
        ('{"size": [12, 11]}', "images of 12 x 11 for the input"),
        ('{"size": "12"}', "size"),
    ],
)
def test_preprocessing_without_sense_is_refused_by_its_key(opened, tmp_path, said, found):
    path = tmp_path / "how.json"
    path.write_text(said)
    with pytest.raises(InputError, match=found):
        opened(foreign.rgb(), preprocessing=path)


def test_mean_for_a_graph_of_uint8_is_refused(opened, tmp_path):
    how = foreign.say(tmp_path, mean=[0.5], std=[0.5])
    with pytest.raises(InputError, match=r"mean is .*the graph takes uint8"):
        opened(faults.unsealed(tiny.grey_uint8()), preprocessing=how)


@pytest.mark.parametrize(
    "said", ["bar\ncross\nring", '["bar", "cross", "ring"]', "bar\ncross\nring"]
)
def test_classes_are_lines_or_a_list(opened, tmp_path, said):
    path = tmp_path / "names"
    path.write_text(said)
    assert opened(foreign.grey(), classes=path).contract.class_labels == tiny.LABELS


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (b"bar\ncross\n", "has 2 names; expected 3, one for each output"),
        (b"bar\nbar\nring", "'bar' twice"),
        (b"bar\n\nring", "no name at place 2"),
        (b'["bar", 2, "ring"]', "no name at place 2"),
        (b"[", "is no JSON"),
        (b"\xff\xfe", "is no text"),
    ],
)
def test_classes_that_do_not_fit_are_refused(opened, tmp_path, said, found):
    path = tmp_path / "names"
    path.write_bytes(said)
    with pytest.raises(InputError, match=found):
        opened(foreign.grey(), classes=path)


def test_sealed_file_is_opened_by_what_it_states(tiny_model):
    file = unproved.open_any(tiny_model, UnprovedOptions())
    assert file.holds_contract
    assert file.contract.proof is None
    with pytest.raises(InputError, match="image_size for a model that holds its own"):
        unproved.require_used([file], UnprovedOptions(image_size=(8,)))


def test_a_file_that_calls_itself_unproved_still_answers_for_its_digest(opened, tmp_path):
    from convnet_edge.runtime import contract

    file = opened(foreign.grey())
    sealed = contract.seal(file.data, file.contract.document)
    assert Classifier(sealed).contract.proof == "unproved"
    with pytest.raises(InputError, match="was altered"):
        Classifier(faults.change_graph(sealed, faults.nudge_one_weight))


def test_a_file_without_contract_is_pointed_to_what_takes_it():
    with pytest.raises(InputError, match="convnet-edge adopt") as refused:
        open_model(foreign.grey())
    assert "convnet-edge bench" in refused.value.next_step


def test_random_pictures_are_the_same_everywhere_and_differ_among_themselves():
    how = given.Preprocessing((12, 10), 3)
    images = unproved.random_images(how)
    assert images.shape == (unproved.MAX_IMAGES, 12, 10, 3)
    assert (images == unproved.random_images(how)).all()
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
    assert len(unproved.random_images(given.Preprocessing((900, 900), 1))) == 2


@pytest.mark.skipif(os.name != "posix", reason="Windows has no limit of memory")
def test_graph_that_takes_more_memory_than_it_states_ends_in_a_process_of_its_own(opened):
    liar = made.graph(FILLED, ARRAYS | {"many": [3 << 28]}, shapes={"huge": [4]})
    with pytest.raises(InputError, match=r"do not run in a process of .* it needs more memory"):
        opened(liar.SerializeToString())
    honest = made.graph(FILLED, ARRAYS | {"many": [3]}, shapes={"huge": [4]})
    assert Classifier(opened(honest.SerializeToString())).contract.proof == "unproved"
