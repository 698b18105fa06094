"""Doing again what a lost connection broke: for steps that go on from where they were, or begin again without harm."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from deploy.errors import ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

RETRIES = 3


def keep_trying(work: Callable[[], T]) -> T:
    """Return what `work` returns; when a connection is lost in it, do it again, up to three times.

    The next verb of a Remote connects again by itself; if it cannot, that error is raised as it is.
    """
    for _ in range(RETRIES):
        try:
            return work()
        except ConnectionLost:
            continue
    return work()
