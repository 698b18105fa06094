"""The queueing discipline that an interface has before ours: how it comes back, or why it is left alone. Pure.

What the kernel chose by itself (handle 0:) comes back by itself when ours goes. What somebody has chosen is made again
from what `tc` says of it, if that is all that there is to say: whether it is, is tried on a device of our own before
anything is touched (`flclient.link.rules`). Everything else is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flclient.link.errors import LinkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flclient.link.tc import Qdisc

_ZEROS = ("0",) * 16
_BY_SERVICE = ("1", "2", "2", "2", "1", "2", "0", "0", "1", "1", "1", "1", "1", "1", "1", "1")
_DEFAULT_CHILD = "pfifo limit 1000"
# Of each kind: its options in `tc -json`, the word for it, and its unit, or of a switch what it is when tc is silent.
# What is not listed keeps its default. tbf is not here: its burst cannot be told exactly.
_OPTIONS = {
    "pfifo": {"limit": ("limit", "")},
    "bfifo": {"limit": ("limit", "")},
    "sfq": {
        "limit": ("limit", ""),
        "quantum": ("quantum", ""),
        "depth": ("depth", ""),
        "divisor": ("divisor", ""),
        "perturb": ("perturb", ""),
    },
    "fq_codel": {
        "limit": ("limit", ""),
        "flows": ("flows", ""),
        "quantum": ("quantum", ""),
        "target": ("target", "+us"),
        "interval": ("interval", "+us"),
        "ce_threshold": ("ce_threshold", "+us"),
        "memory_limit": ("memory_limit", ""),
        "drop_batch": ("drop_batch", ""),
        "ecn": ("ecn|noecn", "off"),
    },
    "fq": {
        "limit": ("limit", ""),
        "flow_limit": ("flow_limit", ""),
        "buckets": ("buckets", ""),
        "orphan_mask": ("orphan_mask", ""),
        "pacing": ("pacing|nopacing", "on"),
        "quantum": ("quantum", ""),
        "initial_quantum": ("initial_quantum", ""),
        "maxrate": ("maxrate", "bps"),
        "low_rate_threshold": ("low_rate_threshold", "bps"),
        "refill_delay": ("refill_delay", "us"),
    },
}
RECREATED = tuple(_OPTIONS)
_LONGEST = 255
"""What fits a device's alias (IFALIASZ), where the words are kept."""


@dataclass(frozen=True)
class Prior:
    """What there was: `words` make it again (`handle … kind …`), empty if the kernel does; `child` serves the others.

    `bands` is the priomap of our root: which of three bands a packet of other traffic takes.
    """

    words: str
    child: str
    bands: tuple[str, ...] = _ZEROS


def prior_of(interface: str, rows: Sequence[Qdisc]) -> Prior:
    """Return what an interface has now; LinkError if it is somebody's work that could not be made again."""
    root = next((row for row in rows if row.root), None)
    if root is None:
        raise LinkError(f"{interface}: tc names no queueing discipline of it")
    hook = next((row for row in rows if row.kind in {"ingress", "clsact"}), None)
    if hook is not None:
        raise _refused(interface, hook, f"{hook.kind}, with rules for what comes in")
    theirs = [row for row in rows if row.handle != "0:"]
    if not theirs:
        return _kernels_own(root, rows)
    if theirs != [root] or root.kind not in _OPTIONS:
        raise _refused(interface, theirs[0], f"{theirs[0].kind} {theirs[0].handle}")
    made = f"{root.kind} {' '.join(_words(root))}".strip()
    prior = Prior(f"handle {root.handle} {made}", made)
    if len(prior.words) > _LONGEST:
        raise _refused(interface, root, f"{root.kind} {root.handle}, of which tc has much to say")
    return prior


def _kernels_own(root: Qdisc, rows: Sequence[Qdisc]) -> Prior:
    kind = next((row.kind for row in rows if not row.root), "") if root.kind == "mq" else root.kind
    if kind == "pfifo_fast":
        return Prior("", "", _BY_SERVICE)
    return Prior("", kind if kind in _OPTIONS else _DEFAULT_CHILD)


def _words(qdisc: Qdisc) -> list[str]:
    words = []
    for name, (word, unit) in _OPTIONS[qdisc.kind].items():
        yes, _, no = word.partition("|")
        if no:
            words.append(yes if qdisc.options.get(name, unit == "on") else no)
        elif name in qdisc.options:
            words += [word, _said(qdisc.options[name], unit)]
    return words


def _said(value: object, unit: str) -> str:
    if unit.startswith("+") and isinstance(value, int):
        # codel counts in 1024 ns and tells whole µs, rounded down: 5 ms come back as 4999 µs, which would be 4998.
        value, unit = value + 1, unit[1:]
    return f"{value}{unit}"


def _refused(interface: str, qdisc: Qdisc, what: str) -> LinkError:
    which = qdisc.kind if qdisc.kind in {"ingress", "clsact"} else "root"
    return LinkError(
        f"{interface} has a queueing discipline that somebody else has put there ({what}), and that could not be put"
        f" back as it was: remove it (tc qdisc del dev {interface} {which}), or shape this client by the relay"
    )
