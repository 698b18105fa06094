"""Finds the trials that belong together because chance treated them alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

Item = TypeVar("Item")


def pairs(
    ours: Sequence[Item],
    theirs: Sequence[Item],
    key: Callable[[Item], Hashable],
    their_key: Callable[[Item], Hashable] | None = None,
) -> tuple[list[Item], list[Item], bool]:
    """Return what to compare with what, and whether each has its partner at the same place: one with the same key.

    What has no partner is left out of pairs. Where one pair at most is found and each side has more, all are kept.
    """
    partners = {(their_key or key)(each): each for each in theirs}
    found = [(one, partners[key(one)]) for one in ours if key(one) in partners]
    if not found or (len(found) == 1 and min(len(ours), len(theirs)) > 1):
        return list(ours), list(theirs), False
    return [one for one, _ in found], [other for _, other in found], True
