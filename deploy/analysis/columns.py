"""The tables of a data set: every column with its type, its unit and what it says; docs/dataset.md lists the same.

Down is from the server to a client. A null is what is not known. Moments that end in `_ns` are of the server's
monotonic clock, `start_s` counts from the first stamp of the server's log. Where a time is split between down and up,
it may be off by `uncertainty_s`, either way, so that the sum is not; no other time needs a common clock.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
import polars as pl

Type: TypeAlias = type[pl.DataType]

INT, F, S, B = pl.Int64, pl.Float64, pl.String, pl.Boolean


class Column(msgspec.Struct, frozen=True):
    """One column: `unit` is empty for names, counts and shares."""

    name: str
    type: Type
    unit: str
    about: str


class Table(msgspec.Struct, frozen=True):
    """One table: a row for what, and its columns in order."""

    name: str
    about: str
    columns: tuple[Column, ...]

    @property
    def schema(self) -> dict[str, Type]:
        """Its columns' types by name, as polars takes them."""
        return {column.name: column.type for column in self.columns}


_PLACE = (
    Column("trial", INT, "", "its place in the plan, from 0; -1 is the warm-up before the trials"),
    Column("round", INT, "", "from 1; 0 is what a trial does before its first round"),
)
_CONTROL = Column("control", B, "", "a control round: nothing was injected")
_WHOSE = (
    Column("message", S, "", "the instruction's id; its reply has the same"),
    Column("client", S, "", "the client's name"),
    Column("kind", S, "", "Flower's message type: train, evaluate, query, …"),
)

PARTS = {
    "server": "the ServerApp's configuration of the round, and handing out other clients' instructions first",
    "queue": "encoded messages waiting for their turn, and instructions waiting until the app was free",
    "downlink": "the instruction's way to the client, without what was injected",
    "decode": "decoding, on both sides",
    "compute": "the app's training on the client",
    "injected": "the app's delay, and what the link held back, both ways",
    "encode": "encoding, on both sides",
    "uplink": "the reply's way to the server, without what was injected",
    "aggregate": "the ServerApp's aggregation",
    "evaluate": "evaluation, by the ServerApp or by the app on the client",
    "unaccounted": "all the rest",
}
"""The parts of a round along its critical path, in the order in which they happen. They add up to the round."""

TASKS = Table(
    "tasks",
    "one instruction to one client, and its reply",
    (
        *_PLACE,
        _CONTROL,
        *_WHOSE,
        Column("error", S, "", "Flower's error, if the reply carries one"),
        Column("down_encode_s", F, "s", "the server encoded the instruction"),
        Column("down_queue_s", F, "s", "it waited for its turn on the stream"),
        Column("sent_ns", INT, "ns", "its first byte was offered to gRPC (the last time, if it was sent anew)"),
        Column("down_s", F, "s", "from there until all of it was at the client"),
        Column("down_injected_s", F, "s", "of that, by the injected link"),
        Column("received_ns", INT, "ns", "all of it was at the client"),
        Column("client_queue_s", F, "s", "it waited until the app was free"),
        Column("client_decode_s", F, "s", "the client decoded it"),
        Column("compute_started_ns", INT, "ns", "the app was called"),
        Column("compute_s", F, "s", "the app's time"),
        Column("cpu_s", F, "s", "CPU time of the client's process meanwhile"),
        Column("delay_requested_s", F, "s", "the app's injected delay, as drawn; null if none was due"),
        Column("delay_s", F, "s", "the same, measured"),
        Column("delay_ended_ns", INT, "ns", "it was over"),
        Column("up_encode_s", F, "s", "the client encoded the reply"),
        Column("up_queue_s", F, "s", "it waited for its turn on the stream"),
        Column("reply_sent_ns", INT, "ns", "its first byte was offered to gRPC"),
        Column("up_s", F, "s", "from there until all of it was at the server"),
        Column("up_injected_s", F, "s", "of that, by the injected link"),
        Column("reply_received_ns", INT, "ns", "all of it was at the server"),
        Column("server_decode_s", F, "s", "the server decoded it"),
        Column("client_s", F, "s", "on the client: from the whole instruction to the reply's first byte"),
        Column("round_trip_s", F, "s", "on the server: from the instruction's first byte to the whole reply"),
        Column("uncertainty_s", F, "s", "by how much down_s may be too long and up_s too short, or the reverse"),
        Column("down_bytes", INT, "bytes", "the instruction"),
        Column("up_bytes", INT, "bytes", "the reply"),
        Column("flags", S, "", "what speaks against using its times one way, joined by `; `"),
    ),
)

MESSAGES = Table(
    "messages",
    "one message in one direction",
    (
        *_PLACE,
        *_WHOSE,
        Column("direction", S, "", "down: the instruction, up: its reply"),
        _CONTROL,
        Column("size_bytes", INT, "bytes", "the message"),
        Column("wire_bytes", INT, "bytes", "all that was offered to the connection for it"),
        Column("sent_ns", INT, "ns", "its first byte was offered to gRPC (the last time, if it was sent anew)"),
        Column("received_ns", INT, "ns", "all of it was there"),
        Column("transfer_s", F, "s", "between the two"),
        Column("uncertainty_s", F, "s", "what transfer_s may be off by, either way, for what the clocks do not tell"),
        Column("round_trip_s", F, "s", "on the server: from the instruction's first byte to the whole reply"),
        Column("client_s", F, "s", "on the client: from the whole instruction to the reply's first byte"),
        Column("network_s", F, "s", "their difference: both directions, without a common clock"),
        Column("layer", S, "", "who injected: relay or kernel; null: nobody, or not known"),
        Column("requested_ms", F, "ms", "the injected one-way delay that was asked for"),
        Column("applied_ms", F, "ms", "the delay that the layer says it applied"),
        Column("held_ms", F, "ms", "how long the layer says it held the message, where it tells"),
        Column("rate_mbit", F, "Mbit/s", "the injected rate"),
        Column("serialisation_s", F, "s", "how long the injected rate takes for the bytes"),
        Column("injected_s", F, "s", "what was injected: held_ms or applied_ms, and serialisation_s"),
        Column("app_delay_s", F, "s", "what the app injected before the reply was sent: no part of transfer_s"),
        Column("natural_s", F, "s", "transfer_s minus injected_s"),
        Column("natural_uncertainty_s", F, "s", "what natural_s may be off by, with jitter that nobody measured"),
        Column("retransmitted", INT, "", "segments that the sender's kernel sent again, since the sample before"),
        Column("overflowed", INT, "", "packets that the layer lost because its queue was full"),
        Column("rtt_ms", F, "ms", "the sender's kernel's smoothed round trip"),
        Column("rtt_min_ms", F, "ms", "the least round trip that it saw"),
        Column("flags", S, "", "what speaks against using its times, joined by `; `"),
    ),
)

PHASES = Table(
    "phases",
    "one part of the ServerApp's own work",
    (
        *_PLACE,
        Column("phase", S, "", "configure, aggregate or evaluate"),
        Column("started_ns", INT, "ns", "its start"),
        Column("ended_ns", INT, "ns", "its end"),
        Column("duration_s", F, "s", "between them"),
    ),
)

ROUNDS = Table(
    "rounds",
    "one round of one trial, and where its time went along the critical path",
    (
        *_PLACE,
        Column("condition", INT, "", "the number of its combination of swept values"),
        Column("repeat", INT, "", "which of the trials of its condition"),
        _CONTROL,
        Column("settling", B, "", "slower than the rounds after it, as first rounds are: in no mean of rounds"),
        Column("started_ns", INT, "ns", "its start; it ends when the next one starts"),
        Column("ended_ns", INT, "ns", "its end"),
        Column("since_s", F, "s", "its start, after that of the trial's first round, without pauses"),
        Column("round_s", F, "s", "how long it took"),
        Column("accuracy", F, "", "after it; null if it was not evaluated"),
        Column("last", S, "", "the client whose training was there last: the round waited for it"),
        Column(
            "cause",
            S,
            "",
            "why: compute, injected, network or engine, whichever was most above the others' median",
        ),
        Column("lost_s", F, "s", "how much earlier the second to last was there"),
        Column("logged", B, "", "whether clients' own logs tell of all on its critical path; else that is unaccounted"),
        *(Column(f"{part}_s", F, "s", about) for part, about in PARTS.items()),
        Column("uncertainty_s", F, "s", "by how much downlink_s may be too long and uplink_s too short, or reverse"),
    ),
)

SHARES = {
    "compute": "the app's training",
    "evaluate": "the app's evaluation",
    "injected": "the app's delay, and what the link held back, both ways",
    "network": "the way there and back, without what was injected",
    "engine": "encoding, decoding and waiting for a turn, on both sides",
    "waiting": "for slower clients: its reply was there, theirs were not",
    "server": "the ServerApp's work, while no client had anything to do",
    "unaccounted": "all the rest",
}
"""The parts of a client's round. They add up to the round."""

CLIENTS = Table(
    "clients",
    "one client in one round",
    (
        *_PLACE,
        Column("condition", INT, "", "the number of its combination of swept values"),
        Column("repeat", INT, "", "which of the trials of its condition"),
        _CONTROL,
        Column("client", S, "", "the client's name"),
        Column("last", B, "", "its training was there last"),
        Column("requested_s", F, "s", "the app's injected delay, as drawn"),
        Column("delay_s", F, "s", "the same, measured"),
        *(Column(f"{part}_s", F, "s", about) for part, about in SHARES.items()),
        Column("round_s", F, "s", "the round: the sum of the parts"),
    ),
)

STRAGGLERS = Table(
    "stragglers",
    "one client in one condition: how often the round waited for it",
    (
        Column("condition", INT, "", "the number of its combination of swept values; null: all of them"),
        Column("client", S, "", "the client's name"),
        Column("rounds", INT, "", "rounds that it trained in"),
        Column("last", INT, "", "of them, those in which it was last"),
        Column("share", F, "", "last ÷ rounds"),
        Column("chance", F, "", "the share of one of equal clients: the mean of 1 ÷ clients that trained in the round"),
        Column("compute", INT, "", "of those in which it was last, because of its compute time"),
        Column("injected", INT, "", "because of the injected delay"),
        Column("network", INT, "", "because of the network"),
        Column("engine", INT, "", "because of encoding, decoding and queues"),
        Column("lost_s", F, "s", "sum of how much earlier the second to last was there"),
    ),
)

WHAT_IF = Table(
    "what_if",
    "one change to one condition: how long its trials would have taken, replayed from the log",
    (
        Column("condition", INT, "", "the number of its combination of swept values; null: all of them"),
        Column("change", S, "", "what is taken away"),
        Column("host", S, "", "which host is left out; null for every other change"),
        Column("trials", INT, "", "completed trials"),
        Column("rounds", INT, "", "rounds of these trials"),
        Column("measured_s", F, "s", "sum of a trial's rounds: the mean of the trials"),
        Column("replayed_s", F, "s", "the same, with the change"),
        Column("saved_s", F, "s", "their difference"),
        Column("saved_pct", F, "%", "of the measured time"),
    ),
)

SAMPLES = Table(
    "samples",
    "one look at one machine",
    (
        Column("host", S, "", "the host's name"),
        Column("start_s", F, "s", "when, since the first stamp of the server's log"),
        Column("cpu_pct", F, "%", "use of all its processors since the sample before"),
        Column("own_cpu_pct", F, "%", "of that, by our process"),
        Column("steal_pct", F, "%", "what a hypervisor took"),
        Column("load_1min", F, "", "load average"),
        Column("memory_free_mb", INT, "MB", "free memory"),
        Column("frequency_mhz", F, "MHz", "of its processor"),
        Column("temperature_c", F, "°C", "of its processor"),
        Column("throttled", INT, "", "a Raspberry Pi's bits of throttling"),
    ),
)

OFFSETS = Table(
    "offsets",
    "one moment of the comparison of one client's clock with the server's: at most a few hundred for each",
    (
        Column("client", S, "", "the client's name"),
        Column("process", INT, "", "which process of it, from 0"),
        Column("start_s", F, "s", "when, since the first stamp of the server's log"),
        Column("offset_ms", F, "ms", "its monotonic clock minus the server's, minus the same at the first moment"),
        Column("low_ms", F, "ms", "the least that the exchanges allow"),
        Column("high_ms", F, "ms", "the most that they allow"),
    ),
)

TRIPS = Table(
    "trips",
    "one round trip of an idle connection or of a probe, or as a sending kernel took it to be",
    (
        Column("client", S, "", "the client's name"),
        Column("source", S, "", "idle (a clock exchange beside no message), before or after (a probe), tcp"),
        Column("trial", INT, "", "its place in the plan; null between trials, and for a probe"),
        _CONTROL,
        Column("rtt_ms", F, "ms", "there and back"),
        Column("injected_ms", F, "ms", "of that, by the injected link; null: not known"),
    ),
)

SPANS = Table(
    "dataset",
    "one span of one message, or one phase of the server: all on one time line",
    (
        *_PLACE,
        Column("condition", INT, "", "the number of its combination of swept values; null for the warm-up"),
        Column("repeat", INT, "", "which of the trials of its condition; null for the warm-up"),
        _CONTROL,
        Column("host", S, "", "where it happened; for a message on its way, the client's end of it"),
        Column("span", S, "", "round, configure, aggregate, evaluate; or a step of a message: see below"),
        Column("client", S, "", "whose message; null for the server's own"),
        Column("message", S, "", "the instruction's id"),
        Column("kind", S, "", "Flower's message type"),
        Column("start_s", F, "s", "since the first stamp of the server's log"),
        Column("duration_s", F, "s", "how long"),
        Column(
            "uncertainty_s",
            F,
            "s",
            "of the start, either way; of downlink and uplink also of the duration",
        ),
        Column("size_bytes", INT, "bytes", "of a message on its way"),
    ),
)

STEPS = (
    "server-encode", "server-queue", "downlink", "client-queue", "client-decode", "compute", "delay", "client-encode",
    "reply-queue", "uplink", "server-decode",
)  # fmt: skip
"""The steps of a task, in order: `span` of a data set's rows."""


def empty(table: Table) -> pl.DataFrame:
    """Return the table without a row."""
    return pl.DataFrame(schema=table.schema)
