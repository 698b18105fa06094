"""Which events of a log become rows of a frame, and with which of their fields; all others stay objects.

A run has millions of the hot kinds and few of any other. What they are decoded into is made from the event structs, so
that names and types are those of the vocabulary: only what the analysis needs is read, and each line once.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

import msgspec
import polars as pl

from flcommon import events
from flcommon.events import AnyEvent, Event

Int64: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
"""What fits into a column, with room for differences."""

_PLACE = ("trial", "round", "message")
_OWN = (*_PLACE, "client", "kind")

HOT: dict[type[Event], tuple[str, ...]] = {
    events.MessageSent: (*_OWN, "size_bytes", "wire_bytes", "encode_s", "queue_s"),
    events.ReplyReceived: (*_OWN, "size_bytes", "wire_bytes", "decode_s", "error"),
    events.MessageReceived: ("message", "size_bytes", "wire_bytes", "queue_s", "decode_s"),
    events.ComputeStarted: (*_PLACE, "kind"),
    events.ComputeEnded: (*_PLACE, "kind", "cpu_s"),
    events.Delayed: (*_PLACE, "kind", "requested_s", "measured_s"),
    events.ReplySent: ("message", "size_bytes", "wire_bytes", "encode_s", "queue_s"),
    events.Redelivered: ("message",),
    events.LinkUsed: ("message", "up", "overflowed", "held_mean_ms"),
    events.ClockExchange: (
        "client",
        "server_sent_mono_ns",
        "client_received_mono_ns",
        "client_received_wall_ns",
        "client_sent_mono_ns",
        "message",
    ),
    events.TcpSampled: ("client", "message", "relay", "tcp.rtt_ms", "tcp.rtt_min_ms", "tcp.retransmitted"),
    events.HostSampled: (
        "cpu_pct", "own_cpu_pct", "steal_pct", "load_1min", "memory_free_mb", "frequency_mhz", "temperature_c",
        "throttled",
    ),
    events.ReplyMetrics: ("trial",),
    events.Transferring: ("trial",),
}  # fmt: skip
"""The hot kinds and their fields; the last two are read by nobody, but for the trial that they are of."""

STAMP = ("seq", "mono_ns", "wall_ns")
_TYPES: dict[Any, type[pl.DataType]] = {int: pl.Int64, float: pl.Float64, str: pl.String, bool: pl.Boolean}


class Stamped(msgspec.Struct, frozen=True, gc=False):
    """What every line has, whatever it tells."""

    seq: Int64
    mono_ns: Int64
    wall_ns: Int64


class Named(Stamped, frozen=True, gc=False):
    """The same of an event of any name."""

    name: str


def name_of(kind: type[Event]) -> str:
    """Return an event's name in the log."""
    return str(kind.__struct_config__.tag)


KNOWN = frozenset(name_of(kind) for kind in get_args(AnyEvent))


def schema(kind: type[Event]) -> dict[str, type[pl.DataType]]:
    """Return the columns of a hot kind's frame; `at` is the line's number among all lines of all logs."""
    own = {field.rpartition(".")[2]: _TYPES[_plain(_type(kind, field))] for field in HOT[kind]}
    return {"at": pl.Int64, "mono_ns": pl.Int64, **own}


def _type(kind: type[msgspec.Struct], field: str) -> Any:  # noqa: ANN401 - an annotation
    head, _, rest = field.partition(".")
    found = next(each.type for each in msgspec.structs.fields(kind) if each.name == head)
    return _type(found, rest) if rest else found


def _plain(annotation: Any) -> Any:  # noqa: ANN401 - an annotation
    """Return the type that is not None."""
    return next((each for each in get_args(annotation) if each is not type(None)), annotation)


def _narrow(kind: type[msgspec.Struct], name: str | None, wanted: tuple[str, ...]) -> type[Any]:
    """Make the struct that holds the wanted fields of another one, by the same types; with a stamp if it has a name."""
    fields = []
    for each in msgspec.structs.fields(kind):
        inner = tuple(field.partition(".")[2] for field in wanted if field.startswith(f"{each.name}."))
        if each.name in wanted or inner:
            found = _narrow(each.type, None, inner) if inner else _bounded(each.type)
            default = () if each.default is msgspec.NODEFAULT else (each.default,)
            fields.append((each.name, found, *default))
    bases = (Stamped,) if name else ()
    options = {"tag": name, "tag_field": "name"} if name else {}
    return msgspec.defstruct(kind.__name__, fields, bases=bases, frozen=True, kw_only=True, gc=False, **options)  # type: ignore[arg-type]


def _bounded(annotation: Any) -> Any:  # noqa: ANN401 - an annotation
    if annotation is int:
        return Int64
    if get_origin(annotation) is not None and int in get_args(annotation):
        return Int64 | None
    return annotation


ROWS: dict[type[Any], type[Event]] = {_narrow(kind, name_of(kind), fields): kind for kind, fields in HOT.items()}
"""What a line of a hot kind is decoded into, and its kind."""
COLD = [_narrow(kind, name_of(kind), ()) for kind in get_args(AnyEvent) if kind not in HOT]

decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Union[(*ROWS, *COLD)])
