"""`quantize`: float ONNX → int8 behind a gate."""

from ..quantizing.options import QuantizeOptions
from .terminal import Terminal


def command(options: QuantizeOptions, terminal: Terminal) -> None:
    """Make an int8 model, gated on accuracy; written only if the gate holds.

    Example: convnet-edge quantize exported/convnet.onnx --layout ort-cpu
    """
    from ..quantizing.quantize import quantize
    from ..runtime.files import percent
    from ..runtime.measure.tables import accuracy_text, difference, race_line

    with terminal.progress():
        result = quantize(options, terminal.step, terminal.note, terminal.share)
    report, layers, test = result.report, result.report.layers, result.report.test
    kept = f" (kept float: {', '.join(layers.kept_float)})" if layers.kept_float else ""
    others = ", ".join(f"{n} {name}" for name, n in sorted(layers.float_operations.items()))
    trips = f"{layers.round_trips} round trip{'s' * (layers.round_trips != 1)} through floats"
    between = f"; {trips}: {others}" if others else ""
    terminal.detail(f"Quantised {report.source}")
    terminal.checks(report.checks)
    terminal.detail(*(rung.line() for rung in report.rungs))
    answer = [
        f"{result.model_path.name}: {report.model_bytes:,} bytes, {report.layout}, accuracy "
        f"{accuracy_text(result.score)}",
        report.recommendation,
    ]
    if any(race.outcome == "slower" for race in report.races):
        answer.reverse()
    if layers.float > layers.integer:
        n = layers.integer + layers.float
        answer.append(f"hardly int8: {layers.float} of {n} layers had to stay floats")
    terminal.answer(*answer)
    terminal.say(
        f"  {report.rung}",
        "  takes uint8 pixels, 0 to 255",
        f"  {report.gate.check().line()}",
        f"  test images, once: float {percent(test.float_accuracy, 2)}; {difference(test, 'int8')}",
        f"  {layers.float} of {layers.integer + layers.float} layers run as floats{kept}{between}",
        *(f"  {race_line(race)}" for race in report.races),
        f"  {len(report.checks)} checks hold",
        f"  sha256 {report.model_sha256}",
    )
    terminal.wrote((result.model_path, result.report_path))
    terminal.finish(report, "convnet-edge", "bench", report.source, result.model_path)
