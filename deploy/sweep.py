"""What a sweep may vary, and the checks that need no condition."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from deploy import links
from deploy.convert import unknown

if TYPE_CHECKING:
    from deploy.yamlfile import Node

MAX_TRIALS = 10_000
SETTABLE = (
    *("rounds", "delay.probability", "delay.seconds", "data.set", "data.partition", "data.alpha"),
    *links.SETTABLE,
)
"""What a sweep may vary, and `run_config.*`."""


def check_sweep(top: Node, repeats: int) -> None:
    """Raise InputError for a sweep that no condition can repair."""
    if "sweep" not in top.entries():
        return
    sweep = top.entries()["sweep"]
    if not sweep.entries():
        raise sweep.error("is empty: give it a key with a list of values, or leave sweep out")
    for name, node in sweep.entries().items():
        _check_key(name, node)
        _check_values(node)
    trials = math.prod(len(node.items()) for node in sweep.entries().values()) * repeats
    if trials > MAX_TRIALS:
        raise sweep.error(f"all combinations and repeats make {trials} trials; at most {MAX_TRIALS} are allowed")


def _check_key(name: str, node: Node) -> None:
    section, _, key = name.partition(".")
    if name not in SETTABLE and not (section == "run_config" and key):
        raise node.error(f"cannot be swept{unknown(name, [*SETTABLE, 'run_config.*'])}")


def _check_values(node: Node) -> None:
    items = node.items()
    if not items:
        raise node.error("is empty: give at least one value")
    seen: dict[str, Node] = {}
    for item in items:
        first = seen.setdefault(_token(item), item)
        if first is not item:
            raise item.error(f"{item.shown()} is in the list twice: first as {first.key}")


def _token(node: Node) -> str:
    """Return a text that is the same for equal values; 3 and 3.0 are equal, 1 and true are not."""
    number = isinstance(node.value, int) and not isinstance(node.value, bool)
    return repr(float(str(node.value)) if number else node.plain())
