"""Labelled 32x32 colour images in memory, from the digits in this package or from CIFAR-10; does not split them.

Images stay bytes until a batch is made: CIFAR-10's training set takes 154 MB that way, not 614.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATA_SETS = ("digits", "cifar10")
DIGITS_FILE = Path(__file__).with_name("digits.npz")
CACHE_VARIABLE = "FIELDLAB_DATA"
DEFAULT_CACHE = Path("~/.fieldlab/data")


class DataError(RuntimeError):
    """A data set that is not there, or not what it should be."""


@dataclass(frozen=True)
class Source:
    """A data set by name; `path` is a directory that holds it already ("": the package's own, or a download)."""

    name: str
    path: str = ""


@dataclass(frozen=True, eq=False)
class Examples:
    """Images uint8 (n, 3, 32, 32) and their labels int64 (n,); `white` is the value of full brightness."""

    images: torch.Tensor
    labels: torch.Tensor
    white: int

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images float32 (b, 3, 32, 32) in [-1, 1] and labels int64 (b,) at `index` (b,).

        The same bits as torchvision's ToTensor and Normalize with mean and deviation 0.5, as in Flower's quickstart.
        """
        images = self.images[index].float().div_(self.white).sub_(0.5).div_(0.5)
        return images, self.labels[index]

    def take(self, index: NDArray[np.int64]) -> Examples:
        """Return the examples at the distinct ascending `index`; all of them without a copy."""
        if len(index) == len(self):
            return self
        chosen = torch.from_numpy(index)
        return Examples(self.images[chosen], self.labels[chosen], self.white)


@lru_cache(maxsize=4)
def load(source: Source, *, train: bool) -> Examples:
    """Return the training or the test set of `source`, read once per process; raises DataError."""
    if source.name == "digits":
        return _digits(source.path, train=train)
    if source.name == "cifar10":
        return _cifar10(source.path, train=train)
    raise DataError(f"data set {source.name!r} is none of {', '.join(DATA_SETS)}")


def cache_directory() -> Path:
    """Return where downloads go: $FIELDLAB_DATA, or else ~/.fieldlab/data."""
    return Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE).expanduser()


def _digits(path: str, *, train: bool) -> Examples:
    """Return 1,437 digits to train on, or the 360 others.

    An 8x8 value counts the black pixels (0 to 16) in one 4x4 block of a 32x32 scan. Each is repeated 4x4, back to where
    it was counted: the scan as far as it is known, nothing interpolated.
    """
    if path:
        raise DataError(f"data.path {path}: the digits are part of the package, they take no path")
    with np.load(DIGITS_FILE) as file:
        small, labels = file["images"], file["labels"]
    index = digits_split(labels, train=train)
    scans = small[index].repeat(4, axis=1).repeat(4, axis=2)
    images = np.repeat(scans[:, np.newaxis], 3, axis=1)
    return Examples(torch.from_numpy(images), torch.from_numpy(labels[index].astype(np.int64)), white=16)


def digits_split(labels: NDArray[np.uint8], *, train: bool) -> NDArray[np.int64]:
    """Return the indices of one side of the fixed split: sorted by label, every fifth example is for testing.

    No random numbers: stratified, spread over all writers (the file lists them one after the other), and the same for
    every seed and release.
    """
    by_label = np.argsort(labels, kind="stable")
    is_test = np.arange(len(labels)) % 5 == 0
    return np.sort(by_label[is_test != train])


def _cifar10(path: str, *, train: bool) -> Examples:
    """Return CIFAR-10's images, from `path` as it is or else downloaded."""
    from flclient.apps.cifar10 import cifar10_files  # noqa: PLC0415 - torchvision: 3 s that digits need not pay

    if path:
        read = cifar10_files.read_given(Path(path).expanduser(), train=train)
    else:
        read = cifar10_files.read_downloaded(cache_directory(), train=train)
    images = torch.from_numpy(read.images).permute(0, 3, 1, 2).contiguous()
    return Examples(images, torch.from_numpy(read.labels), white=255)
