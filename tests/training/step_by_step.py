"""Take the first steps of a run; the leading process writes losses and the first gradients."""

import sys
from pathlib import Path

import torch

from convnet_edge.training.distributed import joined
from convnet_edge.training.options import TrainOptions
from convnet_edge.training.run import Run

N_STEPS = 20


def main(arch: str, out: str) -> None:
    """Train `arch` on the embedded sample, in batches that two processes share unevenly."""
    device = torch.device("cpu")
    with joined(device):
        options = TrainOptions(
            data="sample",
            arch=arch,
            recipe="scratch",
            batch_size=33,
            device="cpu",
            out="x.safetensors",
        )
        run, losses, first = Run(options, device=device), [], []
        real = run.updater.step

        def step(gradients):
            first.extend(g.clone() for g in gradients * (not first))
            real(gradients)

        run.updater.step = step
        run.begin_epoch()
        choices = run.draw(run.choices)
        with run.seeded():
            for start, stop in run.split(len(choices["order"]))[:N_STEPS]:
                before = run.loss_sum.item()
                ours = slice(*run.launch.share(start, stop))
                run.step({name: t[ours] for name, t in choices.items()}, stop - start)
                losses.append(run.loss_sum.item() - before)
        if run.launch.leads:
            torch.save({"losses": losses, "gradients": first}, Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
