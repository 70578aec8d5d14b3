"""What the tests of README and docs share: the fences of a page, and how their lines are run."""

import re
import shlex
import sys
from pathlib import Path

from environments import run
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
# options that shorten a command which takes minutes as it stands; test_full_data runs it whole
SHORTENED = {
    "convnet-edge train": ["--data", "sample", "--epochs", "1"],
    "convnet-edge train --data sample --epochs 3": ["--epochs", "1", "--width", "0.5"],
    "convnet-edge quantize": ["--data", "sample"],
    "convnet-edge bench": ["--quick"],
    "convnet-edge bench a.onnx b.onnx": ["--quick"],
    # two different models; which is faster here is not this test's business
    "convnet-edge compare a.onnx b.onnx": ["--pairs", "6", "--max-slowdown", "900%"],
    "python3 fashion-mnist.pyz bench --out raspberry-pi.json": ["--duration", "0.2"],
}


def fences(text):
    """Return (language, content) of each fenced block of a page, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def blocks(text, language):
    return [content for name, content in fences(text) if name == language]


def lines(block):
    """Return the commands of a block of shell lines, without comments and prompts."""
    found = [line.split(" #")[0].removeprefix("$ ").strip() for line in block.splitlines()]
    return [line for line in found if line and not line.startswith("#")]


def lay_out(folder, test_set):
    """Make a user's folder: the shipped models, and pictures."""
    (folder / "photos").mkdir()
    (folder / "exported").mkdir()
    for shipped in (REPOSITORY / "exported").glob("fashion-mnist*.onnx"):
        (folder / "exported" / shipped.name).write_bytes(shipped.read_bytes())
    shipped = folder / "exported" / "fashion-mnist.onnx"
    (folder / "a.onnx").write_bytes(shipped.read_bytes())
    (folder / "b.onnx").write_bytes(shipped.with_suffix(".int8-ort.onnx").read_bytes())
    boot = 255 - test_set.images[0].repeat(8, axis=0).repeat(8, axis=1)
    for name in ("boot.jpg", "boot.png", "photos/boot.png"):
        Image.fromarray(boot).save(folder / name)


def run_line(line, folder):
    """Run one `convnet-edge …` or `python3 …` of a page, shortened; it has to succeed."""
    program, *arguments = [*shlex.split(line), *SHORTENED.get(line, [])]
    programs = {"convnet-edge": ["-m", "convnet_edge"], "python3": []}
    return run(sys.executable, *programs[program], *arguments, cwd=folder)
