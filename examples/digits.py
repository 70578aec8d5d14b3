"""Write the digits that come with scikit-learn as picture files: a small real data set.

    python examples/digits.py digits/

A folder for each digit; 1,797 PNG files in all, of 8 x 8 pixels in 17 levels of grey.
Needs pillow and scikit-learn, which has the pictures in its package: nothing is downloaded.
Source: UCI's "Optical Recognition of Handwritten Digits", the test part, by 13 writers.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

try:
    from sklearn.datasets import load_digits
except ModuleNotFoundError:
    load_digits = None

MISSING = (
    "scikit-learn is not installed; expected it, for its digits; next: pip install scikit-learn"
)


def main() -> None:
    """Write them into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if load_digits is None:
        parser.error(MISSING)
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), from 0 to 16
    for number, (image, label) in enumerate(zip(images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    print(f"{len(images):,} pictures in {folder}")


if __name__ == "__main__":
    main()
