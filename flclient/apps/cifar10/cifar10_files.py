"""CIFAR-10 from its published files, by torchvision's own reader; makes no tensors."""

from __future__ import annotations

import fcntl
import pickle
from contextlib import contextmanager
from http.client import HTTPException
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from torchvision.datasets import CIFAR10

from flclient.apps.cifar10.data import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = 10
LAYOUT = "cifar-10-batches-py/ with data_batch_1 to data_batch_5, test_batch and batches.meta"

_BROKEN = (
    *(OSError, RuntimeError, HTTPException),  # files missing, or not to be had
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError),  # no pickle, cut short, or of something else
    *(LookupError, TypeError, ValueError),  # a pickle, but not a batch
)
"""What torchvision's reader lets through."""


class Read(NamedTuple):
    """Images uint8 (n, 32, 32, 3) and labels int64 (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class GivenCIFAR10(CIFAR10):  # type: ignore[misc] # torchvision ships no types
    """CIFAR-10's layout without the published files' MD5 sums, for a directory that the user answers for.

    With None for a sum torchvision asks only whether the file exists: reduced and made sets will do.
    """

    train_list: ClassVar[list[list[str | None]]] = [[name, None] for name, _ in CIFAR10.train_list]
    test_list: ClassVar[list[list[str | None]]] = [[name, None] for name, _ in CIFAR10.test_list]
    meta: ClassVar[dict[str, str | None]] = {**CIFAR10.meta, "md5": None}


def read_given(root: Path, *, train: bool) -> Read:
    """Read the set in `root`, downloading nothing.

    The files are pickles, which may run code when read: `root` is trusted. Raises DataError.
    """
    try:
        return _arrays(GivenCIFAR10(root, train=train))
    except _BROKEN as error:
        raise DataError(f"data.path {root}: no readable CIFAR-10, expected {LAYOUT} ({error})") from error


def read_downloaded(root: Path, *, train: bool, reader: type[CIFAR10] = CIFAR10) -> Read:
    """Read the set in `root`, downloading it first if it is not there; MD5 sums are checked. Raises DataError."""
    try:
        with _only_one_process(root):
            return _arrays(reader(root, train=train, download=True))
    except _BROKEN as error:
        raise DataError(
            f"{root}: CIFAR-10 is not there and cannot be downloaded from {reader.url} ({error}); "
            f"unpack it there by hand, or let data.path name a directory that holds {LAYOUT}"
        ) from error


def _arrays(reader: CIFAR10) -> Read:
    labels = np.array(reader.targets, dtype=np.int64)
    if len(labels) != len(reader.data) or not np.isin(labels, range(CLASSES)).all():
        raise ValueError(f"{len(reader.data)} images need as many labels, each below {CLASSES}")
    return Read(reader.data, labels)


@contextmanager
def _only_one_process(root: Path) -> Iterator[None]:
    """Keep others out of `root`: several clients on one host would write the same download at once."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "cifar10.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
