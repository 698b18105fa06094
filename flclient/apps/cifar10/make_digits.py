"""Make digits.npz from scikit-learn's copy of the UCI digits: `python -m flclient.apps.cifar10.make_digits`.

Needs scikit-learn, which the app itself does not. Origin and licence stand in digits.LICENSE.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.datasets import load_digits

from flclient.apps.cifar10.data import DIGITS_FILE

if TYPE_CHECKING:
    from pathlib import Path


def make(path: Path) -> None:
    """Write `images` uint8 (1797, 8, 8) of 0 to 16, and `labels` uint8 (1797,), in scikit-learn's order."""
    digits = load_digits()
    np.savez_compressed(path, images=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8))


if __name__ == "__main__":
    make(DIGITS_FILE)
