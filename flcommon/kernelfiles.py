"""Reads the files in which a kernel tells of itself (/proc, /sys): what is not there, or makes no sense, is nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES = 1 << 20
_MOST = 1 << 62
"""Two of these still go into a log as one number; no counter of bytes or ticks comes near it."""


def contents(path: Path | str) -> bytes:
    """Return what a file holds, nothing if it cannot be read. Half as dear as `Path.read_bytes`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return b""
    try:
        return os.read(descriptor, _MOST_BYTES)
    except OSError:  # as of a sensor that is asleep
        return b""
    finally:
        os.close(descriptor)


def whole(word: bytes) -> int | None:
    """Return a number as the kernel writes it, not below zero; None for anything else."""
    digits = word.strip()
    if not digits.isdigit() or len(digits) > len(str(_MOST)):
        return None
    number = int(digits)
    return number if number <= _MOST else None


def signed(word: bytes) -> int | None:
    """Return a number as the kernel writes it, with a sign if it is below zero; None for anything else."""
    below = word.strip().startswith(b"-")
    number = whole(word.strip()[below:])
    return -number if below and number is not None else number
