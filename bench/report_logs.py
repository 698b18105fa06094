"""Makes the logs of a run that never was: as many clients and rounds as asked for, on clocks that drift.

Each client is a machine with an own monotonic clock; a round waits for its slowest client; ways have a floor and a
tail. What is written looks as what `flserver` and `flclient` write, but for the times, which mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from deploy.manifest import MANIFEST_FILE, SCHEMA_VERSION, HostRecord, Manifest, PlannedTrial
from flcommon.delay import Constant, Delay
from flcommon.events import ClientJoined, JobAccepted, PhaseEnded, RoundEnded, RoundStarted, TrialEnded, TrialOpened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flcommon.events import Event

NS = 1_000_000_000
WALL_NS = 1_790_000_000 * NS
EVENTS = 250
"""About so many bytes is an event long."""
PER_MESSAGE = 10
TRIALS = 4
PROBABILITY = 0.5
TORN_EVERY = 97
"""The log of every so many-th client has a torn line in the middle, and one at its end."""

SERVER = (
    (
        b'{"v":1,"seq":%d,"mono_ns":%d,"wall_ns":%d,"name":"message-sent","trial":%d,"round":%d,"message":"%d-%d",'
        b'"client":"client-%d","kind":"train","size_bytes":249833,"wire_bytes":249944,"encode_s":0.000015724,'
        b'"queue_s":0.00008119,"send_s":0.002362468}\n'
    ),
    (
        b'{"v":1,"seq":%d,"mono_ns":%d,"wall_ns":%d,"name":"reply-received","trial":%d,"round":%d,"message":"%d-%d",'
        b'"client":"client-%d","kind":"train","size_bytes":249860,"wire_bytes":250004,"receive_s":0.0,'
        b'"decode_s":0.000672276,"error":null}\n'
    ),
    (
        b'{"v":1,"seq":%d,"mono_ns":%d,"wall_ns":%d,"name":"clock-exchange","client":"client-%d",'
        b'"server_sent_mono_ns":%d,"server_sent_wall_ns":%d,"client_received_mono_ns":%d,"client_received_wall_ns":%d,'
        b'"client_sent_mono_ns":%d,"client_sent_wall_ns":%d,"message":null}\n'
    ),
)
CLIENT = (
    (
        b'{"v":1,"seq":%d,"mono_ns":%d,"wall_ns":%d,"name":"message-received",%b,"size_bytes":249833,"wire_bytes":249944,'
        b'"receive_s":0.000512,"queue_s":0.000337449,"decode_s":0.001347636}\n'
    ),
    b'{"v":1,"seq":%d,"mono_ns":%d,"wall_ns":%d,"name":"compute-started",%b}\n',
    b'{"v":1,"seq":%d,"mono_ns":%d,"wall_ns":%d,"name":"compute-ended",%b,"cpu_s":0.391807131}\n',
    b'{"v":1,"seq":%d,"mono_ns":%d,"wall_ns":%d,"name":"delayed",%b,"requested_s":%f,"measured_s":%f}\n',
    (
        b'{"v":1,"seq":%d,"mono_ns":%d,"wall_ns":%d,"name":"reply-sent",%b,"size_bytes":249860,"wire_bytes":250004,'
        b'"encode_s":0.000209731,"queue_s":0.000120703,"send_s":0.002851333}\n'
    ),
    (
        b'{"v":1,"seq":%d,"mono_ns":%d,"wall_ns":%d,"name":"tcp-sampled","client":"client-%d","tcp":{"rtt_ms":%f,'
        b'"rtt_var_ms":0.526,"rtt_min_ms":0.21,"retransmitted":%d,"lost":0,"delivery_rate_mbit":89.955552,'
        b'"sent_bytes":3898,"acked_bytes":3898,"received_bytes":2972,"busy_s":0.004,"window_limited_s":0.0,'
        b'"buffer_limited_s":0.0,"congestion_window":18,"segment_bytes":1448,"congestion":"cubic"},"message":"%d-%d",'
        b'"relay":false}\n'
    ),
)


@dataclass(frozen=True)
class Scale:
    """How many clients, and how many events of all together."""

    clients: int
    events: int

    @property
    def rounds(self) -> int:
        """How many rounds all trials have together."""
        return max(TRIALS, self.events // (self.clients * PER_MESSAGE))


@dataclass(frozen=True, eq=False)
class Truth:
    """Moments of the server's monotonic clock in nanoseconds, by round and client."""

    start: np.ndarray[tuple[int], np.dtype[np.int64]]
    sent: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    received: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    computed: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    delayed: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    back: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    end: np.ndarray[tuple[int], np.dtype[np.int64]]


def write_run(run: Path, scale: Scale) -> int:
    """Write a run directory; return how many lines its logs have."""
    truth = _truth(scale)
    lines = _log(run, "server", _server(scale, truth))
    for client in range(scale.clients):
        lines += _log(run, f"client-{client}", _client(scale, truth, client))
        if client % TORN_EVERY == 0:
            _tear(run / "raw" / f"client-{client}" / "events.jsonl")
    (run / MANIFEST_FILE).write_bytes(msgspec.json.encode(_manifest(scale)))
    return lines


def _truth(scale: Scale) -> Truth:
    """Make up one round after the other: what happens in one takes as long as it does in any."""
    rng = np.random.default_rng(7)
    shape = (scale.rounds, scale.clients)
    sent = np.broadcast_to(np.arange(scale.clients) * 20_000, shape)
    received = sent + 2_000_000 + (rng.exponential(1e6, shape)).astype(np.int64)
    computed = received + 400_000_000 + (rng.normal(0, 2e7, shape)).astype(np.int64)
    delayed = computed + np.where(rng.random(shape) < PROBABILITY, 3 * NS, 2_000)
    back = delayed + 2_500_000 + (rng.exponential(1e6, shape)).astype(np.int64)
    long = back.max(axis=1) + 50_000_000
    start = 1_000 * NS + np.concatenate([[0], np.cumsum(long + 10_000_000)[:-1]])
    moved = [part + start[:, None] for part in (sent, received, computed, delayed, back)]
    return Truth(start, *moved, end=start + long)


def _place(scale: Scale, number: int) -> tuple[int, int]:
    """Return trial and round of a round among all."""
    each = -(-scale.rounds // TRIALS)
    return number // each, number % each + 1


def _on_client(client: int, server_ns: int) -> int:
    """Return a client's monotonic clock: it began at another time, and drifts by up to 50 ppm."""
    drift = 1 + (client % 101 - 50) * 1e-6
    return (client + 1) * 77 * NS + round((server_ns - 900 * NS) * drift)


Line = tuple[int, bytes, tuple[object, ...]]
"""The moment of a line, its pattern, and what goes into it after the stamp."""


def _server(scale: Scale, truth: Truth) -> Iterator[Line]:
    yield 999 * NS, *_cold(_job("server"))
    for client in range(scale.clients):
        yield 999 * NS + client, *_cold(ClientJoined(client=f"client-{client}", node_id=client, peer="x"))
    for number in range(scale.rounds):
        trial, place = _place(scale, number)
        start, end = int(truth.start[number]), int(truth.end[number])
        if place == 1:
            yield start - 1, *_cold(TrialOpened(trial=trial))
        yield start, *_cold(RoundStarted(trial=trial, round=place))
        yield from sorted(_messages(scale, truth, number), key=lambda line: line[0])
        yield end - 1, *_cold(PhaseEnded(trial=trial, round=place, phase="aggregate", duration_s=0.04))
        yield end, *_cold(RoundEnded(trial=trial, round=place, duration_s=(end - start) / NS))
        if number + 1 == scale.rounds or _place(scale, number + 1)[0] != trial:
            duration_s = (end - int(truth.start[number - place + 1])) / NS
            yield end, *_cold(TrialEnded(trial=trial, ok=True, rounds=place, duration_s=duration_s))


def _messages(scale: Scale, truth: Truth, number: int) -> Iterator[Line]:
    trial, place = _place(scale, number)
    sent, received, back = (part[number].tolist() for part in (truth.sent, truth.received, truth.back))
    for client in range(scale.clients):
        own = (trial, place, trial, number * scale.clients + client, client)
        yield sent[client], SERVER[0], own
        yield back[client], SERVER[1], own
        asked = sent[client] + 300_000_000
        there = asked + (received[client] - sent[client]) // 3
        at_client = _on_client(client, there)
        moments = (asked, asked + WALL_NS, at_client, at_client + WALL_NS, at_client + 1000, at_client + 1000 + WALL_NS)
        yield there + 700_000 + back[client] % 1_000_000, SERVER[2], (client, *moments)


def _client(scale: Scale, truth: Truth, client: int) -> Iterator[Line]:
    yield _on_client(client, 999 * NS), *_cold(_job(f"client-{client}"))
    columns = (truth.received[:, client], truth.computed[:, client], truth.delayed[:, client])
    for number, (received, computed, delayed) in enumerate(zip(*(part.tolist() for part in columns), strict=True)):
        trial, place = _place(scale, number)
        message = number * scale.clients + client
        own = b'"trial":%d,"round":%d,"message":"%d-%d","client":"client-%d","kind":"train"' % (
            trial, place, trial, message, client
        )  # fmt: skip
        at = [_on_client(client, moment) for moment in (received, received + 2_000_000, computed, delayed)]
        for moment, pattern in zip(at[:3], CLIENT, strict=False):
            yield moment, pattern, (own,)
        delay_s = (delayed - computed) / NS
        yield at[3], CLIENT[3], (own, 3.0 if delay_s > 1 else 0.0, delay_s)
        yield at[3] + 400_000, CLIENT[4], (own,)
        for moment in (at[0] + 1000, at[3] + 1_000_000):
            yield moment, CLIENT[5], (client, 0.3 + number % 7 / 10, number, trial, message)


def _cold(event: Event) -> tuple[bytes, tuple[object, ...]]:
    return b'{"v":1,"seq":%d,"mono_ns":%d,"wall_ns":%d,%b\n', (msgspec.json.encode(event)[1:],)


def _job(host: str) -> JobAccepted:
    role = "server" if host == "server" else "client"
    return JobAccepted(role=role, host=host, campaign="bench", pid=7, versions={}, job=msgspec.Raw(b"{}"))


def _log(run: Path, host: str, lines: Iterator[Line]) -> int:
    folder = run / "raw" / host
    folder.mkdir(parents=True)
    number = 0
    with (folder / "events.jsonl").open("wb", buffering=1 << 20) as file:
        for moment, pattern, values in lines:
            file.write(pattern % (number, moment, moment + WALL_NS, *values))
            number += 1
    return number


def _tear(path: Path) -> None:
    """Damage a log as a power failure does: a line in the middle, and the end of the last one."""
    text = bytearray(path.read_bytes())
    middle = text.index(b"\n", len(text) // 2) + 20
    text[middle : middle + 100] = bytes(100)
    path.write_bytes(text[:-15])


def _manifest(scale: Scale) -> Manifest:
    each = -(-scale.rounds // TRIALS)
    trials = tuple(
        PlannedTrial(
            index=index, condition=index // 2, repeat=index % 2, schedule=index, seed=1, rounds=each,
            settings={"delay.probability": PROBABILITY}, run_config={}, delay=Delay(PROBABILITY, Constant(3.0)),
        )
        for index in range(TRIALS)
    )  # fmt: skip
    clients = {f"client-{number}": HostRecord(role="client", facts={}) for number in range(scale.clients)}
    return Manifest(
        schema=SCHEMA_VERSION, campaign="bench", lab="bench", playbook="bench", app="none", status="complete",
        created_utc="2025-11-25T00:00:00Z", error=None, versions={}, code_digest="", inventory={},
        playbook_resolved={}, hosts={"server": HostRecord(role="server", facts={}), **clients}, trials=trials,
        phases_s={},
    )  # fmt: skip
