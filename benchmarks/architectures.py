"""Export each small classifier of torchvision and timm: `python benchmarks/architectures.py`.

Random weights, ImageNet's normalisation, images of 96 x 96 pixels, or as many as an architecture
is fixed to. Each file runs on one thread at batch sizes 1, 2, 3 and 7. What was measured before is
kept, unless it is named; at the end docs/reference/architectures.md is written anew. timm is left
out where it is not installed. `--times` times the small ones afterwards, one run each in turn.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convnet_edge.exporting import graph
from convnet_edge.exporting.export import VERSIONS
from convnet_edge.networks.normalized import Normalized
from convnet_edge.runtime.errors import EdgeError
from convnet_edge.runtime.files import as_json, write_json
from convnet_edge.runtime.measure import machine
from convnet_edge.runtime.measure.stats import median_interval
from convnet_edge.runtime.operators.rules import RULES
from convnet_edge.runtime.session import Session, Settings

RESULT = Path(__file__).resolve().parent / "results" / "reference" / "architectures.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "architectures.md"
BATCH_SIZES = (1, 2, 3, 7)
MAX_PARAMETERS = 30_000_000
N_CLASSES, SIDE = 1000, 96
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TIMM = (
    "convnext_atto", "edgenext_xx_small", "efficientnet_lite0", "fastvit_t8", "ghostnet_100",
    "lcnet_050", "levit_128s", "mobilenetv3_small_100", "mobilenetv4_conv_small", "mobileone_s0",
    "mobilevit_xxs", "regnetz_005", "repvgg_a0", "tinynet_e", "vit_tiny_patch16_224",
)  # fmt: skip
# those that people put on boards; each is timed with the others in one run
TIMED = (
    "timm:efficientnet_lite0", "timm:ghostnet_100", "timm:lcnet_050", "timm:mobilenetv3_small_100",
    "timm:mobilenetv4_conv_small", "timm:repvgg_a0", "timm:tinynet_e",
    "torchvision:efficientnet_b0",
    "torchvision:mnasnet0_5", "torchvision:mobilenet_v2", "torchvision:mobilenet_v3_large",
    "torchvision:mobilenet_v3_small", "torchvision:regnet_y_400mf", "torchvision:resnet18",
    "torchvision:shufflenet_v2_x0_5", "torchvision:shufflenet_v2_x1_0", "torchvision:squeezenet1_1",
)  # fmt: skip
N_WARMUP, N_TIMED = 10, 201
SAMPLE = ("torchvision:mobilenet_v3_small", "torchvision:squeezenet1_1", "timm:repvgg_a0")


def main() -> None:
    """Measure what is named, or all that is missing; write result and page after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="as in torchvision:resnet18; else all")
    parser.add_argument("--times", action="store_true", help="time the small ones again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {row["name"]: row for row in stored()["rows"]}
    missing = [] if options.times else [name for name in candidates() if name not in rows]
    for name in options.names or missing:
        rows[name] = measure(name)
        print(json.dumps({k: v for k, v in rows[name].items() if k != "operators"}), flush=True)
        keep(rows)
    if options.times:
        for name, found in time_in_turn([name for name in TIMED if name in rows]).items():
            rows[name]["latency_ms"] = found
        keep(rows)
    PAGE.write_text(page(stored()))


def keep(rows: dict[str, dict[str, Any]]) -> None:
    """Write the result."""
    result = {
        "schema": "convnet-edge/architectures/1",
        "rows": sorted(rows.values(), key=lambda row: row["n_parameters"]),
        "machine": machine.passport(),
        "versions": VERSIONS,
    }
    write_json(RESULT, result)


def time_in_turn(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the median time of one image on one thread, by name, of runs that took turns."""
    sessions = {}
    for name in names:
        model, shape = build(name)
        session = Session(graph.to_onnx(model, shape), Settings(threads=1))
        sessions[name] = session, np.random.default_rng(0).random((1, *shape), np.float32)
        print(f"to time: {name}", flush=True)
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(N_WARMUP + N_TIMED):
        for name, (session, image) in sessions.items():
            started = time.perf_counter_ns()
            session.run(image)
            times[name].append((time.perf_counter_ns() - started) / 1e6)
    kept = {name: np.array(each[N_WARMUP:]) for name, each in times.items()}
    return {
        name: {
            "p50": float(np.median(each)),
            "interval_95": as_json(median_interval(each)),
            "n": N_TIMED,
        }
        for name, each in kept.items()
    }


def stored() -> dict[str, Any]:
    """Return what was measured before."""
    if not RESULT.exists():
        return {"rows": []}
    found: dict[str, Any] = json.loads(RESULT.read_text())
    return found


def candidates() -> Iterator[str]:
    """Yield the architectures below the limit that are installed here."""
    models = importlib.import_module("torchvision.models")
    if importlib.util.find_spec("timm"):
        yield from (f"timm:{name}" for name in TIMM)
    sizes = {name: models.get_model_weights(name).DEFAULT.meta["num_params"]
             for name in models.list_models(module=models)}  # fmt: skip
    for name in sorted(sizes, key=lambda name: sizes[name]):
        if sizes[name] < MAX_PARAMETERS:
            yield f"torchvision:{name}"


def build(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """Return the network in eval mode and its images' shape; always the same weights."""
    torch.manual_seed(0)
    library, _, what = name.partition(":")
    side = SIDE
    if library == "timm":
        timm = importlib.import_module("timm")
        network = timm.create_model(what, num_classes=N_CLASSES)
        if network.default_cfg.get("fixed_input_size"):
            side = network.default_cfg["input_size"][-1]
    else:
        network = _from_torchvision(what)
    model, shape = Normalized(network, *IMAGENET).eval(), (3, side, side)
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for one in norms:  # statistics of random pictures: with those of none, the logits vanish
        one.momentum = 1.0
        one.train()
    with torch.no_grad():
        model(torch.rand(8, *shape))
    return model.eval(), shape


def _from_torchvision(what: str) -> nn.Module:
    models = importlib.import_module("torchvision.models")
    spared = {"init_weights": False} if what in ("googlenet", "inception_v3") else {}
    made: nn.Module = models.get_model(what, weights=None, num_classes=N_CLASSES, **spared)
    return made


def measure(name: str) -> dict[str, Any]:
    """Export and run one architecture; of one that cannot be exported, say why."""
    model, shape = build(name)
    row: dict[str, Any] = {
        "name": name,
        "side": shape[1],
        "n_parameters": sum(one.numel() for one in model.parameters()),
    }
    started = time.perf_counter_ns()
    try:
        exported = graph.to_onnx(model, shape)
    except EdgeError as error:
        return row | {"refused": str(error)}
    export_s = (time.perf_counter_ns() - started) / 1e9
    proto = onnx.load_from_string(exported)
    images = np.random.default_rng(0).random((max(BATCH_SIZES), *shape), np.float32)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            model(torch.from_numpy(images[:1]))
        rounded = _run(images, lambda batch: model(torch.from_numpy(batch)).numpy())
        model.double()
        exact = model(torch.from_numpy(images).double()).numpy()
    session = Session(exported, Settings(threads=1))
    given = _run(images, session.run)
    scale = {size: float(np.abs(found - exact[:size]).max()) for size, found in rounded.items()}
    return row | {
        "opset": max(one.version for one in proto.opset_import),
        "ir_version": proto.ir_version,
        "operators": dict(sorted(Counter(node.op_type for node in proto.graph.node).items())),
        "n_multiplications": counter.get_total_flops() // 2,
        "max_error": max(float(np.abs(found - exact[:n]).max()) for n, found in given.items()),
        "torch_error": max(scale.values()),
        "row_invariance": max(float(np.abs(found - given[1][0]).max())
                              for found in (one[:1] for one in given.values())),
        "model_bytes": len(exported),
        "export_s": round(export_s, 1),
    }  # fmt: skip


def _run(images: np.ndarray, network: Callable[[np.ndarray], np.ndarray]) -> dict[int, np.ndarray]:
    """Return the logits of the first images at each batch size."""
    return {size: network(images[:size]) for size in BATCH_SIZES}


def page(result: dict[str, Any]) -> str:
    """Return the reference page: it says nothing that is not in the result."""
    rows, about = result["rows"], result["machine"]
    exported = [row for row in rows if "refused" not in row]
    plain = {op for row in exported for op in row["operators"] if _is_plain(row)}
    others = {op for row in exported for op in row["operators"]} - plain
    ratio = max(row["max_error"] / row["torch_error"] for row in exported)
    alone = [row for row in exported if row["row_invariance"] == 0]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    columns = ("architecture", "pixels", "parameters, M", "multiplications, M", "MB", "ms",
               "opset, IR",
               "error / torch's", "row invariance", "operators beyond the common ones")  # fmt: skip
    lines = [columns, ["---"] + ["---:"] * 8 + ["---"], *(_line(row, plain) for row in rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"""# Architectures

Written by `python benchmarks/architectures.py`, from `{RESULT.name}`.

{len(exported)} of {len(rows)} classifiers of torchvision and timm below {MAX_PARAMETERS // 10**6}
million parameters export with a free batch axis, as they are but for modules that offer a
deployed form, which is taken: those of RepVGG, MobileOne and others. Weights are random, with
batch-norm statistics of random pictures and ImageNet's normalisation in front. Multiplications are
those of one image in convolutions and matrix products. *error / torch's*: the largest error of a
logit against float64 PyTorch, over the largest of float32 PyTorch; {ratio:.2f} at most here. *row
invariance*: the largest difference between an image's logits alone and in a batch, on one thread
at batch sizes {", ".join(map(str, BATCH_SIZES))}; 0 for {len(alone)} of {len(exported)}.
*ms*: the median of {N_TIMED} runs of one image on one thread, all that have one in turn, float32.

{_admission(exported)}

{len(plain)} common operators are all that those without attention or layer norm need:
{", ".join(sorted(plain))}. The others add {", ".join(sorted(others))}.

{table}

Measured with {versions}, onnxruntime {about["versions"]["onnxruntime"]}, on {about["cpu"]}.
"""


def _admission(exported: list[dict[str, Any]]) -> str:
    """Say which of them a device refuses."""
    foreign = {row["name"]: sorted({*row["operators"]} - {*RULES}) for row in exported}
    refused = [f"{name} ({', '.join(ops)})" for name, ops in foreign.items() if ops]
    if not refused:
        return "A device admits all of them."
    return f"A device admits all but {', '.join(refused)}, which `export` therefore refuses."


def _is_plain(row: dict[str, Any]) -> bool:
    return not {"Softmax", "LayerNormalization", "Erf"} & set(row["operators"])


def _line(row: dict[str, Any], plain: set[str]) -> list[str]:
    if "refused" in row:
        return [row["name"], str(row["side"]), f"{row['n_parameters'] / 1e6:.1f}",
                *("",) * 6, f"refused: {row['refused']}"]  # fmt: skip
    beyond = sorted(set(row["operators"]) - plain)
    return [
        row["name"],
        str(row["side"]),
        f"{row['n_parameters'] / 1e6:.1f}",
        f"{row['n_multiplications'] / 1e6:,.0f}",
        f"{row['model_bytes'] / 1e6:.1f}",
        f"{row['latency_ms']['p50']:.2f}" if "latency_ms" in row else "",
        f"{row['opset']}, {row['ir_version']}",
        f"{row['max_error'] / row['torch_error']:.2f}",
        f"{row['row_invariance']:.1g}",
        " ".join(beyond),
    ]


if __name__ == "__main__":
    main()
