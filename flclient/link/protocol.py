"""What a client says to the process that shapes its link, and hears from it: one JSON object a line.

`python -m flclient.link.kernel` or `.relay`, with `Setup` as the first line on standard input. The answer is `Ready`,
or `Broke` and exit status 1. From then on requests are answered in the order in which they came. The end of standard
input ends the process, and the link is natural again.
"""

from __future__ import annotations

import msgspec

from flcommon.link import Way


class Request(msgspec.Struct, frozen=True, tag_field="ask", kw_only=True):
    """Base of what the client says."""


class Setup(Request, frozen=True, tag="setup", kw_only=True):
    """First: whose traffic it is. `server` is `address:port` as the client would connect to it.

    `interface`: the inventory's, or empty for that of the route. `lease`: the file in which a controller writes that it
    is there (`flcommon.lease`); without a word in it for `lease_s` the link is taken off until the next one.
    """

    server: str
    interface: str = ""
    lease: str = ""
    lease_s: float = 45.0


class Set(Request, frozen=True, tag="set", kw_only=True):
    """Shape so from now on, or from `at_ns` (CLOCK_MONOTONIC) on, which is at most minutes away; answer: `Applied`.

    A later `Set` or `Clear` without `at_ns` makes those void that have not come true.
    """

    number: int
    up: Way
    down: Way
    at_ns: int | None = None


class Clear(Request, frozen=True, tag="clear", kw_only=True):
    """Be natural from now on; answer: `Applied`."""

    number: int


class Mark(Request, frozen=True, tag="mark", kw_only=True):
    """Say what was done to a direction since its last mark: a message has gone by; answer: `Used`."""

    message: str
    up: bool


class Answer(msgspec.Struct, frozen=True, tag_field="say", kw_only=True):
    """Base of what the shaping process says."""


class Ready(Answer, frozen=True, tag="ready", kw_only=True):
    """It is there. `address`: where the client connects to instead of the server, empty if to the server itself.

    `about` says in words what is being shaped, and how: interface, handles, versions.
    """

    address: str = ""
    about: dict[str, str] = {}


class Applied(Answer, frozen=True, tag="applied", kw_only=True):
    """A `Set` or `Clear` holds since `mono_ns`; `up` and `down` are what was read back, by name, in the units of a Way.

    None where a direction is natural.
    """

    number: int
    mono_ns: int
    up: dict[str, float | str] | None = None
    down: dict[str, float | str] | None = None


class Used(Answer, frozen=True, tag="used", kw_only=True):
    """What was done to a direction since its last mark: counters that are not known are None.

    `held_*_ms`: how long bytes were really kept back (relay); `stalled_ms`: stalls in place of loss (relay);
    `dropped` and `overflowed` packets: by the loss that was asked for, and because a queue was full (kernel).
    """

    message: str
    up: bool
    size_bytes: int | None = None
    packets: int | None = None
    dropped: int | None = None
    overflowed: int | None = None
    held_mean_ms: float | None = None
    held_max_ms: float | None = None
    stalled_ms: float | None = None


class Natural(Answer, frozen=True, tag="natural", kw_only=True):
    """Said by itself: control was lost, and the link has been taken off; `reason` in words."""

    reason: str


class Restored(Answer, frozen=True, tag="restored", kw_only=True):
    """Said by itself: control is back, and so is the link."""


class Tcp(Answer, frozen=True, tag="tcp", kw_only=True):
    """Said by a relay with each `Used`: what the kernel knows of its own connection to the server (TCP_INFO, raw)."""

    info: bytes
    congestion: str = ""


class Broke(Answer, frozen=True, tag="broke", kw_only=True):
    """It cannot go on, or not do what it was asked: why, in one sentence for a person."""

    reason: str


AnyRequest = Setup | Set | Clear | Mark
AnyAnswer = Ready | Applied | Used | Natural | Restored | Tcp | Broke

_encoder = msgspec.json.Encoder()
requests: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
answers: msgspec.json.Decoder[AnyAnswer] = msgspec.json.Decoder(AnyAnswer)


def line(said: Request | Answer) -> bytes:
    """Encode what is said as one line."""
    return _encoder.encode(said) + b"\n"
