"""A `Way` in the words of tc(8) and tc-netem(8), and back: pure data, nothing is run.

Two queueing disciplines shape a direction, one inside the other:

- `tbf`, which limits nothing here (1 Tbit/s), cuts. The kernel hands TCP's data down in super-packets of up to 64 KB
  (TSO, GSO; on the way in GRO), and netem would lose, duplicate and time these as one: with 1 % loss, 10 MB lost 122,
  then none of 6900 packets; cut, 89 and 64. Switching the interface's offloads off does not help: since Linux 4.17 TCP
  always makes super-packets, and they are cut only behind the disciplines. tbf cuts what is longer than its `burst`
  (`tbf_segment`). A direction that is only late stays whole, for speed.
- `netem` has all that was asked for. It always has a rate, at least ORDERED_MBIT: without one, netem lets packets of
  different delays overtake one another; with one, it sends each after the one before (`netem_enqueue`). So packets keep
  their order under jitter, and when a delay becomes shorter; `reorder` still works. The price is that of every queue:
  behind a late packet all are late, so under jitter a burst is later, on average, than a lone packet.

netem counts what it loses on purpose and what its full queue (`limit`) refuses in one counter, `drops`. So that nothing
is lost but what was asked for, the queue has room for what is under way on the link and, behind it, for more than TCP's
windows: a rate is felt as time, as it is by the relay. Drops are then the loss where one is asked for, and an overflow,
which should not be, where none is; an overflow of a link with loss would be taken for loss.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from flcommon.link import OUR_HANDLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flcommon.link import Way

ROOT, CUTTER = OUR_HANDLE, "f1ac:"
SHAPERS = ("f1ad:", "f1ae:")
"""Handles of our own; netem has one of two, so that a new one can take an old one's place at once."""
ORDERED_MBIT = 34_000.0
"""A rate that nothing here reaches, and that still fits 32 bits of bytes a second."""
QUEUE_PACKETS = 100_000
"""The room beside what is under way: 150 MB of full packets, where a TCP connection's window has 6 MB (tcp_rmem)."""
DEFAULT_MBIT = 1_000.0
FRAME_BYTES = 1_514
_MOST_PACKETS = 2**32 - 1
_DEVIATIONS = {"uniform": 1.0, "normal": 4.0, "pareto": 4.0, "paretonormal": 4.0}
"""The longest jitter in its own unit; a table of tc's reaches 32767/8192."""
_UNCUT_BYTES = 4_000_000


class _Delay(msgspec.Struct, frozen=True):
    delay: float
    jitter: float


class _Loss(msgspec.Struct, frozen=True):
    loss: float


class _Burst(msgspec.Struct, frozen=True, kw_only=True):
    p: float
    r: float
    bad: float = msgspec.field(name="1-h", default=1.0)
    good: float = msgspec.field(name="1-k", default=0.0)


class _Reorder(msgspec.Struct, frozen=True):
    reorder: float


class _Duplicate(msgspec.Struct, frozen=True):
    duplicate: float


class _Rate(msgspec.Struct, frozen=True):
    rate: float


class Netem(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """What `tc -json qdisc show` says of netem; shares of 1, seconds, bytes a second."""

    limit: int
    delay: _Delay | None = None
    loss_random: _Loss | None = None
    loss_gemodel: _Burst | None = None
    reorder: _Reorder | None = None
    duplicate: _Duplicate | None = None
    rate: _Rate | None = None
    gap: int = 0


class Qdisc(msgspec.Struct, frozen=True, kw_only=True):
    """A queueing discipline as `tc -json -s qdisc show dev …` lists it."""

    kind: str
    handle: str
    root: bool = False
    parent: str = ""
    options: dict[str, object] = {}
    bytes: int = 0
    packets: int = 0
    drops: int = 0


def is_whole(way: Way) -> bool:
    """Whether a direction is only late, so that super-packets need not be cut."""
    return way == type(way)(delay_ms=way.delay_ms)


def cutter(way: Way, mtu: int) -> list[str]:
    """Return tbf's parameters: what is longer than two packets is cut, if the way is felt by each packet."""
    burst = _UNCUT_BYTES if is_whole(way) else 2 * mtu
    return ["tbf", "rate", "1000gbit", "burst", f"{burst}", "limit", "1000000000"]


def limit(way: Way, line_mbit: float) -> int:
    """Return the length of netem's queue in packets: what is under way on the link, and room for a queue."""
    rate_mbit = way.rate_mbit or line_mbit
    longest_ms = way.delay_ms + _DEVIATIONS[way.distribution] * way.jitter_ms
    under_way = rate_mbit * 1e6 / 8 * longest_ms / 1e3 / FRAME_BYTES
    return min(math.ceil(under_way) + QUEUE_PACKETS, _MOST_PACKETS)


def netem(way: Way, line_mbit: float) -> list[str]:
    """Return netem's parameters; `line_mbit` is what the interface can do, where no rate is asked for."""
    words = ["netem", "limit", f"{limit(way, line_mbit)}", "delay", _ms(way.delay_ms)]
    if way.jitter_ms:
        words.append(_ms(way.jitter_ms))
        if way.distribution != "uniform":  # which netem draws where it has no table
            words += ["distribution", way.distribution]
    if way.loss_burst is not None:
        burst = way.loss_burst
        shares = (burst.p_pct, burst.r_pct, burst.bad_loss_pct, burst.good_loss_pct)
        words += ["loss", "gemodel", *map(_pct, shares)]
    elif way.loss_pct:
        words += ["loss", "random", _pct(way.loss_pct)]
    if way.duplicate_pct:
        words += ["duplicate", _pct(way.duplicate_pct)]
    if way.reorder_pct:
        words += ["reorder", _pct(way.reorder_pct)]
    return [*words, "rate", f"{round((way.rate_mbit or ORDERED_MBIT) * 1e6)}bit"]


def needs_table(way: Way) -> bool:
    """Whether a way brings a table of a distribution, which netem keeps until it is made anew."""
    return bool(way.jitter_ms) and way.distribution != "uniform"


def applied(options: Mapping[str, object]) -> dict[str, float | str]:
    """Return what netem says that it does, by name and in the units of a `Way`; what it does not do is left out.

    `limit_packets` is the length of its queue; the distribution of a jitter cannot be read back.
    """
    said = msgspec.convert(options, Netem)
    found: dict[str, float | str] = {}
    if said.delay is not None:
        found |= {"delay_ms": _rounded(said.delay.delay * 1e3), "jitter_ms": _rounded(said.delay.jitter * 1e3)}
    if said.loss_random is not None:
        found["loss_pct"] = _rounded(said.loss_random.loss * 100)
    if said.loss_gemodel is not None:
        model = said.loss_gemodel
        shares = {"p_pct": model.p, "r_pct": model.r, "bad_loss_pct": model.bad, "good_loss_pct": model.good}
        found |= {f"loss_burst.{name}": _rounded(share * 100) for name, share in shares.items()}
    if said.rate is not None and said.rate.rate != ORDERED_MBIT * 1e6 / 8:
        found["rate_mbit"] = said.rate.rate * 8 / 1e6
    if said.reorder is not None and said.gap:  # without a gap it is an earlier one's, and void
        found["reorder_pct"] = _rounded(said.reorder.reorder * 100)
    if said.duplicate is not None:
        found["duplicate_pct"] = _rounded(said.duplicate.duplicate * 100)
    return {name: value for name, value in found.items() if value} | {"limit_packets": said.limit}


def match(address: str, port: int, *, up: bool) -> list[str]:
    """Return the words of a u32 filter for TCP to (up) or from (down) this address and port.

    u32, because every kernel with tc has it, the Raspberry Pi's too. It looks at fixed places: of packets with IP
    options or IPv6 extension headers, which TCP does not have, it would see no port.
    """
    protocol, family, length = ("ipv6", "ip6", 128) if ":" in address else ("ip", "ip", 32)
    which, number = ("dst", "dport") if up else ("src", "sport")
    return [
        *("protocol", protocol, "pref", f"{preference(address)}", "u32"),
        *("match", family, which, f"{address}/{length}"),
        *("match", family, "protocol", "6", "0xff"),
        *("match", family, number, f"{port}", "0xffff"),
    ]


def preference(address: str) -> int:
    """Return the place of our filters among others, by which they are found again: one for each protocol."""
    return 0xF1AC if ":" in address else 0xF1AB


def line(*words: str | Sequence[str]) -> str:
    """Return a line for `tc -batch`, of words and lists of words; no word has a space."""
    flat = [one for word in words for one in ([word] if isinstance(word, str) else word)]
    return " ".join(flat)


def _ms(value: float) -> str:
    return f"{value:.6f}ms"


def _pct(value: float) -> str:
    return f"{value:.8g}%"


def _rounded(value: float) -> float:
    """Return a value without the dust of its way through 32 bits and ticks of 64 ns."""
    return float(f"{value:.6g}")
