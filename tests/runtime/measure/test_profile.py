from convnet_edge.runtime import Classifier
from convnet_edge.runtime.measure import profile
from convnet_edge.runtime.session import Settings


def event(name, op_type, provider, microseconds):
    args = {"op_name": op_type, "provider": f"{provider}ExecutionProvider"}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": args}


def test_profile_of_the_model_covers_its_nodes(model_bytes, test_set):
    classifier = Classifier(model_bytes, threads=1)
    nodes = profile.profile(classifier, test_set.images[:1], Settings())
    assert {"Conv", "MaxPool", "Gemm"} <= {node.op_type.removeprefix("Fused") for node in nodes}
    assert {node.provider for node in nodes} == {"CPU"}
    assert abs(sum(node.share for node in nodes) - 1) < 1e-9
    assert profile.count_copies(nodes) == 0


def test_runs_that_warm_up_do_not_count():
    events = [event("a", "Conv", "CUDA", 1000)] * profile.N_WARMUP
    events += [event("a", "Conv", "CUDA", 10)] * 5 + [event("b", "Relu", "CUDA", 30)] * 15
    first, second = profile.summarize([*events, {"cat": "Session", "name": "run", "dur": 1}])
    assert (first.name, first.op_type, first.provider) == ("a", "Conv", "CUDA")
    assert (first.median_us, second.median_us) == (10, 30)
    assert first.share == 0.25


def test_copies_between_device_and_host_are_counted():
    events = [event("c", "MemcpyFromHost", "CUDA", 3), event("d", "MemcpyToHost", "CUDA", 3)]
    nodes = profile.summarize([*events, event("e", "Conv", "CUDA", 9)])
    assert profile.count_copies(nodes) == 2
