"""What the tests of README and docs share: the fences of a page, and how their lines are run."""

import re
import shlex
import shutil
import sys

import foreign
from emulated import REPOSITORY
from environments import run
from PIL import Image

EXAMPLES = ("letters.py", "residual.py")
SHOES = (5, 7, 9)  # classes of Fashion-MNIST
# options that shorten a command which takes minutes as it stands; test_full_data runs it whole
SHORTENED = {
    "convnet-edge train": ["--data", "sample", "--epochs", "1"],
    "convnet-edge train --data sample --epochs 3": ["--epochs", "1", "--arch-option", "width=0.5"],
    "convnet-edge quantize": ["--data", "sample"],
    "convnet-edge bench": ["--quick"],
    "python examples/letters.py letters --pictures 2600": ["--pictures", "780"],
    "convnet-edge train --data letters --recipe scratch --epochs 12 --out "
    "checkpoints/letters.safetensors": ["--epochs", "2", "--image-size", "24"],
    "convnet-edge train --data letters --arch residual.py:Residual --epochs 12 --out "
    "checkpoints/residual.safetensors": ["--epochs", "2", "--image-size", "24"],
    "convnet-edge quantize exported/residual.onnx --data letters --max-drop 3": [
        "--max-drop",
        "90",
    ],
    # what so short a training gives may lose more
    "convnet-edge quantize exported/letters.onnx --data letters --max-drop 3": ["--max-drop", "90"],
    "convnet-edge bench a.onnx b.onnx": ["--quick"],
    "convnet-edge bench theirs.onnx": ["--quick"],
    "convnet-edge bench theirs.onnx --data photos/ --classes classes.txt --preprocessing "
    "preprocessing.json": ["--quick"],
    "convnet-edge compare theirs.onnx ours.onnx --max-slowdown 0%": [
        *("--pairs", "6", "--max-slowdown", "500%")
    ],
    # two different models; which is faster here is not this test's business
    "convnet-edge compare a.onnx b.onnx": ["--pairs", "6", "--max-slowdown", "500%"],
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
    photos = 255 - test_set.images[:40].repeat(8, axis=1).repeat(8, axis=2)
    for name in ("boot.jpg", "boot.png"):
        Image.fromarray(photos[0]).save(folder / name)
    labels = test_set.labels[:40].tolist()
    for number, (photo, label) in enumerate(zip(photos, labels, strict=True)):
        path = folder / "photos" / ("shoes" if label in SHOES else "others") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(photo).save(path)
    for seed, stem in enumerate(("theirs", "ours")):
        (folder / f"{stem}.onnx").write_bytes(foreign.averaging(n_classes=2, seed=seed))
    (folder / "classes.txt").write_text("others\nshoes\n")
    (folder / "preprocessing.json").write_text('{"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}')
    (folder / "examples").mkdir()
    for name in EXAMPLES:
        shutil.copy(REPOSITORY / "examples" / name, folder / "examples" / name)


def run_line(line, folder):
    """Run one `convnet-edge …`, `python …` or `cp …` of a page, shortened; it has to succeed."""
    program, *arguments = [*shlex.split(line), *SHORTENED.get(line, [])]
    if program == "cp":
        shutil.copy(*(folder / name for name in arguments))
        return ""
    programs = {"convnet-edge": ["-m", "convnet_edge"], "python3": [], "python": []}
    return run(sys.executable, *programs[program], *arguments, cwd=folder)
