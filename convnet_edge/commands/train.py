"""`train`: images → checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..training.options import TrainOptions
from .terminal import Done, Terminal, rank

if TYPE_CHECKING:
    from ..training import loop as stage

EXAMPLES = (
    "Examples: convnet-edge train --data sample --epochs 3 · convnet-edge train --recipe best "
    "--validate 5000 · torchrun --nproc-per-node 2 cli.py train"
)


def command(options: TrainOptions, terminal: Terminal) -> Done[stage.TrainResult | None]:
    """Train the convnet on Fashion-MNIST; the defaults are the tutorial's recipe."""
    from ..training import loop as stage
    from ..training.resume import resume_path

    if rank() != 0:
        return Done(stage.train(options))
    if resume_path(options.out).exists() and not options.resume:
        terminal.note(
            f"{resume_path(options.out)} holds an unfinished run, which this run replaces; "
            "stop with Ctrl-C and pass --resume to go on with it"
        )
    records: list[dict[str, Any]] = []
    with terminal.progress() as bar:

        def moved(state: stage.Progress) -> None:
            done = (state.epoch - 1 + state.n_images / state.n_images_total) / state.n_epochs
            bar.share(
                done,
                f"epoch {state.epoch}/{state.n_epochs}  loss {state.mean_loss:.4f}  "
                f"accuracy {state.accuracy:.2%}  {state.images_per_s:,.0f} images/s",
            )

        def complete(record: dict[str, Any]) -> None:
            terminal.say(f"{options.out} is complete: nothing to do")
            records.append(record)

        listener = stage.Listener(
            started=lambda start: _show_start(options, start, terminal),
            progress=moved,
            epoch_done=lambda epoch, n_epochs: terminal.say(_epoch_line(epoch, n_epochs)),
            already_complete=complete,
        )
        result = stage.train(options, listener)
    if result is not None:
        terminal.say(f"Test accuracy: {result.test.summary()}")
        terminal.wrote((result.checkpoint_path, result.record_path), (result.picture,))
        records.append(result.record)
    return Done(result, records[0], f"convnet-edge export {options.out}")


def _show_start(options: TrainOptions, start: stage.Start, terminal: Terminal) -> None:
    """Print data, network, cost and recipe, before the first epoch."""
    cost, recipe = start.cost, options.plan
    together = f", {start.n_processes} processes" if start.n_processes > 1 else ""
    held_out = f", {options.validate:,} more held out for validation" if options.validate else ""
    conv1, conv2, *linear = cost.n_multiplications
    terminal.say(
        f"Data: {options.data}, {len(start.images):,} training images{held_out} "
        f"({start.images.source}); device {start.device}{together}",
        str(start.model),
        f"Model has {cost.n_parameters} trainable parameters",
        f"Cost: {cost.n_parameters:,} parameters ({cost.parameter_bytes / 1e6:.2f} MB); "
        f"{sum(cost.n_multiplications):,} multiplications an image (conv1 {conv1:,}, conv2 "
        f"{conv2:,}, linear {sum(linear):,}); data {cost.data_bytes / 1e6:.0f} MB; peak measured "
        f"here {cost.peak_flops / 1e9:,.0f} GFLOP/s, so an epoch takes {cost.bound_s:.2g} s or "
        "more",
        f"Recipe {options.recipe}: {recipe.epochs} epochs of batches of {recipe.batch_size}, "
        f"seed {options.seed}",
    )
    if options.resume:
        resumed = f"Resuming after {start.n_done} complete epochs"
        fresh = "No unfinished run to resume: starting from the beginning"
        terminal.say(resumed if start.n_done else fresh)
    for warning in start.warnings:
        terminal.note(f"warning: {warning}")


def _epoch_line(epoch: stage.EpochMetrics, n_epochs: int) -> str:
    validation = ""
    if epoch.validation_accuracy is not None:
        validation = (
            f" Validation loss: {epoch.validation_loss:.5f}, "
            f"accuracy: {epoch.validation_accuracy * 100:.2f}%."
        )
    return (
        f"Epoch [{epoch.epoch:3}/{n_epochs:3}] finished. Mean loss: {epoch.mean_loss:.5f}. "
        f"Accuracy: {epoch.accuracy * 100:.2f}% (before each update).{validation} "
        f"{epoch.duration_s:.1f} s"
    )
