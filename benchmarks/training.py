"""Time each way of training against the tutorial's own loop: `python benchmarks/training.py`.

Every round runs each variant for a block of steps, one after the other, so that a machine that
changes its speed changes it for all; the ratio of a round is the tutorial's time over the
variant's in that round. Writes the raw times, a table and a picture. Needs the full training images
(see the README); a `--device cuda` run adds the CUDA graph.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from matplotlib.figure import Figure
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from convnet_edge.data import fashion_mnist as data
from convnet_edge.networks.convnet import Architecture, Convnet
from convnet_edge.networks.operations import count
from convnet_edge.runtime.files import write_json
from convnet_edge.runtime.measure import machine
from convnet_edge.training.loop import measure_peak, without_tf32
from convnet_edge.training.options import TrainOptions
from convnet_edge.training.record import device_name
from convnet_edge.training.run import GraphedStep, Run

REFERENCE_DIR = Path(__file__).resolve().parent / "results" / "reference"
BATCH_SIZE = 64
EPOCH_STEPS = 938
Block = Callable[[int], None]  # runs that many steps, and waits until they are done


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """torchvision's FashionMNIST, item by item: a PIL image, then the transform."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels, self.transform = images, labels, transforms.ToTensor()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self.images[index].numpy())
        return self.transform(image), int(self.labels[index])


@dataclass(frozen=True)
class Setting:
    """What all variants train on."""

    images: Any
    data_dir: Path | None
    device: torch.device

    def network(self) -> Convnet:
        """Return the convnet with the same random weights each time."""
        torch.manual_seed(0)
        return Convnet(Architecture()).to(self.device)

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (N, 1, 28, 28) uint8 and labels (N,), on the CPU."""
        x = torch.from_numpy(self.images.images.copy())[:, None]
        return x, torch.from_numpy(self.images.labels.copy()).long()

    def wait(self) -> None:
        """Return once the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def tutorial(setting: Setting) -> Block:
    """Write out the tutorial's loop: DataLoader, ToTensor, a second forward pass for the hits."""
    model, (x_all, y_all) = setting.network(), setting.tensors()
    loader = DataLoader(Pictures(x_all[:, 0], y_all), batch_size=BATCH_SIZE, shuffle=True)
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)

    def block(n_steps: int) -> None:
        model.train()
        epoch_loss = n_correct = 0.0
        for step, (x_batch, y_batch) in enumerate(loader):
            if step == n_steps:
                break
            x_batch, y_batch = x_batch.to(setting.device), y_batch.to(setting.device)
            y_pred = model(x_batch)
            loss = loss_fn(y_pred, y_batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                epoch_loss += loss.item()
                n_correct += (model(x_batch).argmax(dim=1) == y_batch).float().sum().item()

    return block


def by_autograd(
    setting: Setting, *, channels_last: bool = False, pool_first: bool = False, crop: bool = False
) -> Block:
    """Run one forward pass a step, on images that live on the device, with autograd."""
    model, (x_all, y_all) = setting.network(), setting.tensors()
    x_all, y_all = x_all.to(setting.device), y_all.to(setting.device)
    if crop:
        x_all = x_all[:, :, :26, :26].contiguous()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=channels_last)
    forward = _pool_first(model) if pool_first else model
    sums = torch.zeros(2, device=setting.device)

    def block(n_steps: int) -> None:
        order = torch.randperm(len(y_all)).to(setting.device)
        for chosen in order.split(BATCH_SIZE)[:n_steps]:
            x, y = x_all[chosen].float().div_(255), y_all[chosen]
            logits = forward(x)
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sums[0] += loss.detach()
            sums[1] += (logits.detach().argmax(1) == y).sum()
        setting.wait()

    return block


def _pool_first(model: Convnet) -> Callable[[torch.Tensor], torch.Tensor]:
    conv1, conv2, linear1, linear2 = (model.layer_stack[i] for i in (0, 3, 7, 9))

    def forward(x: torch.Tensor) -> torch.Tensor:
        x = F.relu(F.max_pool2d(conv1(x), 2))
        x = F.relu(F.max_pool2d(conv2(x), 2))
        return linear2(F.relu(linear1(x.flatten(1))))

    return forward


def ours(setting: Setting, *, graph: bool = True, **options: Any) -> Block:
    """Take the steps that `convnet-edge train` takes."""
    given = TrainOptions(data_dir=setting.data_dir, **options)
    run = Run(given, device=setting.device)
    step = GraphedStep(run) if graph else run.step

    def block(n_steps: int) -> None:
        order = torch.randperm(len(run.dataset.train)).to(setting.device)
        for start in range(0, n_steps * BATCH_SIZE, BATCH_SIZE):
            step({"order": order[start : start + BATCH_SIZE]}, BATCH_SIZE)
        setting.wait()

    return block


def variants(setting: Setting) -> dict[str, Block]:
    """Return every variant by name, the tutorial's loop first."""
    found = {
        "the tutorial's loop": tutorial(setting),
        "images kept as tensors, one forward pass": by_autograd(setting),
        "+ channels-last, fused Adam": by_autograd(setting, channels_last=True),
        "+ max-pool before ReLU": by_autograd(setting, channels_last=True, pool_first=True),
        "+ only the pixels that reach the output": by_autograd(
            setting, channels_last=True, pool_first=True, crop=True
        ),
        "+ the step written out (`train`)": ours(setting, graph=False),
        "`train --precision bf16`": ours(setting, graph=False, precision="bf16"),
    }
    if setting.device.type == "cuda":
        found["`train`: the step as a CUDA graph"] = ours(setting)
        found["`train --precision bf16`, as a CUDA graph"] = ours(setting, precision="bf16")
    return found


def measure(blocks: dict[str, Block], *, n_rounds: int, n_steps: int) -> dict[str, list[float]]:
    """Return each variant's milliseconds a step, one number a round, after one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in blocks}
    for index in range(n_rounds + 1):
        for name, block in blocks.items():
            started = time.perf_counter_ns()
            block(n_steps)
            if index:
                times[name].append((time.perf_counter_ns() - started) / 1e6 / n_steps)
        print(f"round {index} of {n_rounds}", file=sys.stderr)
    return times


def summarize(times: dict[str, list[float]], bound_ms: float) -> list[dict[str, Any]]:
    """Return a row a variant: median time, ratio to the tutorial's loop with its range, bound."""
    base = next(iter(times.values()))
    rows = []
    for name, samples in times.items():
        ratios = [a / b for a, b in zip(base, samples, strict=True)]
        median = statistics.median(samples)
        rows.append(
            {
                "variant": name,
                "step_ms": samples,
                "median_step_ms": median,
                "ratio": statistics.median(ratios),
                "ratio_lowest": min(ratios),
                "ratio_highest": max(ratios),
                "share_of_bound": bound_ms / median,
            }
        )
    return rows


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw the ratios, with their ranges."""
    figure = Figure(figsize=(9, 0.5 * len(rows) + 1.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    names = [row["variant"].replace("`", "") for row in rows]
    ratios = [row["ratio"] for row in rows]
    lower = [row["ratio"] - row["ratio_lowest"] for row in rows]
    upper = [row["ratio_highest"] - row["ratio"] for row in rows]
    axes.barh(names, ratios, xerr=(lower, upper), color="#2563a8", ecolor="#7f8790", capsize=3)
    for y, row in enumerate(rows):
        axes.text(0.05, y, f"{row['ratio']:.2f}×", va="center", color="white")
    axes.invert_yaxis()
    axes.set(xlabel="times the tutorial's loop (median, lowest and highest round)", title=title)
    figure.savefig(path)


def main() -> None:
    """Measure, print the table, write result and picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40, help="steps a variant takes in a round")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, help="default: results/reference/training-DEVICE.json")
    options = parser.parse_args()
    device = torch.device(options.device)
    images = data.load_training_set("fashion-mnist", options.data_dir)
    setting = Setting(images, options.data_dir, device)
    out = options.out or REFERENCE_DIR / f"training-{device.type}.json"

    sides = Architecture().needed_sides
    operations = BATCH_SIZE * count(setting.network(), (1, *sides)).n_training
    peaks = [measure_peak(device)]
    with without_tf32():
        times = measure(variants(setting), n_rounds=options.rounds, n_steps=options.steps)
    peaks.append(measure_peak(device))
    bound_ms = 1e3 * operations / max(peaks)
    rows = summarize(times, bound_ms)
    passport = machine.passport()
    write_json(
        out,
        {
            "schema": "convnet-edge/training-benchmark/1",
            "command": "python benchmarks/training.py",
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "batch_size": BATCH_SIZE,
            "n_rounds": options.rounds,
            "steps_per_round": options.steps,
            "operations_per_step": operations,
            "peak_flops": max(peaks),
            "bound_step_ms": bound_ms,
            "rows": rows,
            "machine": passport,
            "versions": {"torch": torch.__version__},
        },
    )
    title = f"Training the tutorial's convnet, batch 64: {passport['cpu'] or device}"
    draw(rows, title, out.with_suffix(".png"))
    for row in rows:
        print(
            f"{row['variant']:<48} {row['median_step_ms']:7.2f} ms  {row['ratio']:.2f}x "
            f"({row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f})"
        )
    print(f"{'bound: ' + format(max(peaks) / 1e9, ',.0f') + ' GFLOP/s measured':<48} "
          f"{bound_ms:7.2f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
