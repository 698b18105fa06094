"""When bytes that come to a relay may leave it: one direction of a host's injected link, as arithmetic on given times.

A `Lane` holds no bytes, no clock and no socket. All connections of a host share it, as they would share a radio link.
What it plays, in this order:

- rate: segments of 1448 bytes follow each other in frames of 1514, as `tc` counts them, so 10 Mbit/s carry 9.56;
- delay and jitter: drawn for each segment, with the distributions of netem's tables, and what is read at once leaves
  with its slowest segment, since order is kept;
- loss: a relay ends TCP, so a lost segment is a stall. It arrives with its retransmission, one round trip of the
  injected link later (at least 10 ms), and what follows it waits, as in a receiver's kernel. A retransmission that is
  lost too is followed by another after twice the time, and so on. Several losses within a round trip cost one, as with
  SACK. A sender that slows down after a loss is not played, nor is the time-out (200 ms and more) that a real one needs
  where nothing follows the lost segment: such losses are too cheap here.
"""

from __future__ import annotations

import math
import random
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

from flcommon.link import NATURAL, TABLE_LIMIT, Burst, Distribution, Way

if TYPE_CHECKING:
    from collections.abc import Callable

SEGMENT_BYTES = 1448
HEADER_BYTES = 66
"""Of each segment in a frame: Ethernet, IPv4, and TCP with its timestamps."""
MS = 1_000_000
QUANTUM_NS = MS // 2
"""How much of a link with a rate is given to one connection at a time; a segment at least."""
AHEAD_NS = 1 * MS
"""How long before the link is free the next bytes are read: a timer that is late leaves no gap."""
CREDIT_NS = 100 * MS
"""How late a reader that waited for the link may be, on a busy host, without the link having been idle meanwhile."""
PIECE_BYTES = 256 * 1024
LEAST_RETRY_NS = 10 * MS
MOST_RETRIES = 10
"""Even a link that loses everything lets a segment through after so many, the waits doubling: it is as good as dead."""
_NORMAL = NormalDist()


class Fate(NamedTuple):
    """When bytes may leave, and how much later that is for a loss."""

    due_ns: int
    stalled_ns: int


class Lane:
    """One direction. All times are nanoseconds of one monotonic clock."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._free_ns = 0
        self.way = NATURAL
        self.delay_ns = 0
        self._jitter_ns = 0
        self._retry_ns = LEAST_RETRY_NS
        self._frame_ns_per_byte = 0.0
        self._losses: Losses | None = None

    def set(self, way: Way, round_trip_ns: int, now_ns: int) -> None:
        """Be so for what is taken from now on; `round_trip_ns` is what both directions of the link add."""
        before = self._frame_ns_per_byte
        self._frame_ns_per_byte = 8_000 / way.rate_mbit if way.rate_mbit else 0.0
        # What is being sent goes on at the new rate.
        left_ns = max(0, self._free_ns - now_ns)
        self._free_ns = now_ns + round(left_ns * self._frame_ns_per_byte / before) if before else now_ns
        self.way = way
        self.delay_ns = round(way.delay_ms * MS)
        self._jitter_ns = round(way.jitter_ms * MS)
        self._retry_ns = max(LEAST_RETRY_NS, round_trip_ns)
        self._losses = Losses(way, self._draw) if way.loss_pct or way.loss_burst else None

    @property
    def quantum_bytes(self) -> int:
        """How much may be taken at once."""
        if not self._frame_ns_per_byte:
            return PIECE_BYTES
        frames = int(QUANTUM_NS / (self._frame_ns_per_byte * (SEGMENT_BYTES + HEADER_BYTES)))
        return min(PIECE_BYTES, max(1, frames) * SEGMENT_BYTES)

    @property
    def opens_ns(self) -> int:
        """From when on more may be taken; in the past if there is no rate."""
        return self._free_ns - AHEAD_NS if self._frame_ns_per_byte else 0

    def take(self, size: int, now_ns: int, after_ns: int = 0, *, waited: bool = False) -> Fate:
        """Decide on bytes that are there now; nothing leaves before `after_ns`.

        `waited`: they were there before, and the link was busy until now or a little ago.
        """
        segments = -(-size // SEGMENT_BYTES)
        sent_ns = now_ns
        if self._frame_ns_per_byte:
            begun_ns = max(self._free_ns, now_ns - CREDIT_NS if waited else now_ns)
            self._free_ns = begun_ns + round((size + segments * HEADER_BYTES) * self._frame_ns_per_byte)
            sent_ns = max(now_ns, self._free_ns)
        arrives_ns = sent_ns + self._path_ns(segments)
        due_ns = max(arrives_ns, after_ns)
        if self._losses is None:
            return Fate(due_ns, 0)
        tries = self._losses.retries(segments)
        stalled_ns = max(0, arrives_ns + self._retry_ns * (2**tries - 1) - due_ns)
        return Fate(due_ns + stalled_ns, stalled_ns)

    def _path_ns(self, segments: int) -> int:
        if not self._jitter_ns:
            return self.delay_ns
        # The largest of n draws has the n-th root of one as its probability.
        slowest = deviation(self.way.distribution, self._draw() ** (1 / segments))
        return max(0, self.delay_ns + round(slowest * self._jitter_ns))

    def applied(self) -> dict[str, float | str] | None:
        """Return what is in force, in the units of a Way; None if nothing is."""
        if self.way.natural:
            return None
        found: dict[str, float | str] = {"delay_ms": self.delay_ns / MS}
        if self._jitter_ns:
            found |= {"jitter_ms": self._jitter_ns / MS, "distribution": self.way.distribution}
        if self._frame_ns_per_byte:
            found |= {"rate_mbit": 8_000 / self._frame_ns_per_byte}
        if burst := self.way.loss_burst:
            found |= {f"loss_burst.{key}": getattr(burst, key) for key in burst.__struct_fields__}
        elif self.way.loss_pct:
            found |= {"loss_pct": self.way.loss_pct}
        return found | ({"retransmission_ms": self._retry_ns / MS} if self._losses else {})


class Losses:
    """Which segments are lost: each by itself, or in bursts."""

    def __init__(self, way: Way, draw: Callable[[], float]) -> None:
        self._draw = draw
        always = Burst(p_pct=100.0, r_pct=100.0, bad_loss_pct=way.loss_pct, good_loss_pct=way.loss_pct)
        burst = way.loss_burst or always
        self._good, self._bad = burst.good_loss_pct / 100, burst.bad_loss_pct / 100
        self._worsens, self._improves = burst.p_pct / 100, burst.r_pct / 100
        self._is_bad = False

    def retries(self, segments: int) -> int:
        """Send so many; return how often the unluckiest had to be sent again."""
        most = 0
        for _ in range(segments):
            tries = 0
            while tries < MOST_RETRIES and self._loses():
                tries += 1
            most = max(most, tries)
        return most

    def _loses(self) -> bool:
        """Lose a segment by the state before it, as sch_netem.c does, and change the state."""
        lost = self._draw() < (self._bad if self._is_bad else self._good)
        if self._draw() < (self._improves if self._is_bad else self._worsens):
            self._is_bad = not self._is_bad
        return lost


def deviation(distribution: Distribution, probability: float) -> float:
    """Return the quantile of a distribution in units of the jitter, as in the tables that iproute2 gives to netem.

    Those of `pareto` (shape 3) and `paretonormal` (three parts of it, one of the normal) have neither mean 0 nor
    deviation 1 quite, and no table goes further than four.
    """
    if distribution == "uniform":
        return 2 * probability - 1
    normal = _NORMAL.inv_cdf(min(max(probability, 1e-9), 1 - 1e-9))
    normal = min(max(normal, -TABLE_LIMIT), TABLE_LIMIT)
    if distribution == "normal":
        return normal
    pareto = min((math.pow(max(1 - probability, 1e-9), -1 / 3) - 1.5) * 4 / 3, TABLE_LIMIT)
    return pareto if distribution == "pareto" else (normal + 3 * pareto) / 4
