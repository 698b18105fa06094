"""Decoding of bytes from elsewhere, which may be anything: whatever is wrong with them is one error.

msgspec (0.22) raises its own errors for most of it, but UnicodeDecodeError for text that is not UTF-8, and
RecursionError for arrays in arrays without end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

Data = TypeVar("Data", bytes, memoryview)
T = TypeVar("T")


def decoded(decode: Callable[[Data], T], data: Data) -> T:
    """Return what a msgspec decoder's `decode` makes of the data; raises msgspec.MsgspecError alone."""
    try:
        return decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
