"""The injected link: what a playbook may ask of the network between a client and the server, and when.

A `Way` is one direction. A link's course says which ways hold from when on, in seconds from a trial's first round:
steps that somebody has written or recorded, or states between which it switches at random. Switching depends on (seed,
client, schedule) alone, as the delays of `flcommon.delay` do, so every repeat of a seed and every strategy sees the
same. This module shapes nothing: `flclient.link` does.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_MS = 60_000.0
PAYLOAD = 1448 / 1514
"""Of a frame on Ethernet, so much is payload of TCP with time stamps (RFC 7323); a rate counts frames."""
TOLERANCE_MS, TOLERANCE = 1.0, 0.05
"""A link whose delay is off by more than the greater of the two, the share of what was asked, is not used."""
TABLE_LIMIT = 4.0
"""Standard deviations in the tables of netem's distributions, at most; the relay draws from the same."""
OUR_HANDLE, OUR_DEVICES = "f1ab:", "fieldlab-"
"""How what a kernel holds for a link of ours is known: its root's handle, and how its devices' names begin."""
Layer = Literal["kernel", "relay"]
"""Who shapes: the host's kernel by `tc` (root), or a relay in user space through which the stream goes (anybody)."""

Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=LONGEST_MS)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
PositivePercent = Annotated[float, msgspec.Meta(gt=0, le=100)]
Rate = Annotated[float, msgspec.Meta(ge=0.01, le=100_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
PositiveSeconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Distribution = Literal["uniform", "normal", "pareto", "paretonormal"]


class Burst(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Loss in bursts: the Gilbert-Elliott model, in tc-netem(8)'s words.

    Each packet turns the good state into the bad one with `p_pct`, the bad into the good one with `r_pct`; in the bad
    state a packet is lost with `bad_loss_pct` (netem's 1-h), in the good one with `good_loss_pct` (netem's 1-k).
    """

    p_pct: PositivePercent
    r_pct: PositivePercent
    bad_loss_pct: Percent = 100.0
    good_loss_pct: Percent = 0.0


class Way(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What is injected into one direction, on top of what the network does by itself; all of it one-way.

    `jitter_ms` is the half-width of a uniform distribution, or the standard deviation of another. Packets keep their
    order, as in a queue, unless `reorder_pct` of them overtake. `rate_mbit` counts as `tc` does: whole Ethernet frames,
    so that of 10 Mbit/s 9.56 are payload.
    """

    delay_ms: Milliseconds = 0.0
    jitter_ms: Milliseconds = 0.0
    distribution: Distribution = "uniform"
    loss_pct: Percent = 0.0
    loss_burst: Burst | None = None
    rate_mbit: Rate | None = None
    reorder_pct: Percent = 0.0
    duplicate_pct: Percent = 0.0

    def __post_init__(self) -> None:
        if self.jitter_ms > self.delay_ms:
            raise ValueError(
                f"jitter_ms ({self.jitter_ms:g}) must not be above delay_ms ({self.delay_ms:g}):"
                " no packet arrives before it was sent"
            )
        if self.loss_pct and self.loss_burst is not None:
            raise ValueError("the same thing is said twice: loss_pct and loss_burst")
        if self.reorder_pct and not self.delay_ms:
            raise ValueError("reorder_pct needs a delay_ms, which the packets that overtake do not wait for")

    @property
    def natural(self) -> bool:
        """Whether it asks for nothing."""
        return self == NATURAL

    @property
    def spread_ms(self) -> float:
        """How far a packet's delay is from `delay_ms` at most."""
        return self.jitter_ms * (1.0 if self.distribution == "uniform" else TABLE_LIMIT)

    @property
    def kernel_only(self) -> tuple[str, ...]:
        """Return the keys in use that a relay, which ends TCP, cannot play."""
        return tuple(key for key in ("reorder_pct", "duplicate_pct") if getattr(self, key))


NATURAL = Way()


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """From `at_s` on, both directions are so; `state` is a name for figures and logs, or empty."""

    at_s: Seconds = 0.0
    state: str = ""
    up: Way = NATURAL
    down: Way = NATURAL


class Steps(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="course", tag="steps"):
    """Written or recorded steps, the first at 0 s; the last one holds. One step is a link that does not change."""

    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        times = [step.at_s for step in self.steps]
        if times[0] != 0:
            raise ValueError(f"the first step must be at 0 s, not {times[0]:g}")
        if any(later <= earlier for earlier, later in itertools.pairwise(times)):
            raise ValueError("each step must come later than the one before")


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A state of a link that switches: what it is like, and how long it lasts on average (exponential)."""

    mean_s: PositiveSeconds
    up: Way = NATURAL
    down: Way = NATURAL


class Switching(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="course", tag="switching"
):
    """Random switching between named states, from the first one on; from each to any other with equal probability."""

    states: Annotated[dict[str, State], msgspec.Meta(min_length=2)]


Course = Steps | Switching


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a condition injects between one client and the server."""

    course: Course

    @property
    def ways(self) -> tuple[Way, ...]:
        """All that it may ever be, both directions."""
        parts = self.course.steps if isinstance(self.course, Steps) else self.course.states.values()
        return tuple(way for part in parts for way in (part.up, part.down))

    @property
    def kernel_only(self) -> tuple[str, ...]:
        """Return the keys in use that a relay cannot play."""
        return tuple(dict.fromkeys(key for way in self.ways for key in way.kernel_only))


class Chance(msgspec.Struct, frozen=True):
    """Everything that random switching depends on."""

    seed: int
    client: str
    schedule: int


_LINK_STREAM = 0x11


def course_of(link: Link, who: Chance) -> Iterator[Step]:
    """Yield the steps of a link in order of time, without end where it switches."""
    if isinstance(link.course, Steps):
        yield from link.course.steps
        return
    import numpy as np  # noqa: PLC0415 - what shapes a link needs the types alone, and numpy costs a small host a second

    name = int.from_bytes(hashlib.sha256(who.client.encode()).digest()[:8], "big")
    stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence([who.seed, name, who.schedule, _LINK_STREAM])))
    states = link.course.states
    names = list(states)
    here, at_s = 0, 0.0
    while True:
        state = states[names[here]]
        yield Step(at_s=at_s, state=names[here], up=state.up, down=state.down)
        stay, way = stream.random(2)
        at_s += -state.mean_s * math.log1p(-float(stay))
        others = [place for place in range(len(names)) if place != here]
        here = others[int(float(way) * len(others))]
