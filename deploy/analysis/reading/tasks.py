"""Each instruction with its reply as one row: all steps of its life, durations and moments on the server's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from deploy.analysis.columns import OFFSETS, PHASES, ROUNDS, SAMPLES, TASKS, TRIPS
from deploy.analysis.reading.messages import client_of, clients_of
from deploy.analysis.reading.sides import side_of
from flcommon.events import HostSampled, PhaseEnded, Probed, RoundEnded, RoundStarted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from deploy.analysis.clocks.clock import ClientProcess, Clocks
    from deploy.analysis.clocks.exchanges import Process
    from deploy.analysis.clocks.idle import IdleTrip
    from deploy.analysis.reading.messages import MessageRow, OneClient
    from deploy.analysis.reading.rows import Trial
    from deploy.analysis.reading.sides import Side

Row = dict[str, Any]

TOLD = ("trial", "round", "condition", "repeat", "control", "started_ns", "ended_ns", "since_s", "round_s", "accuracy")
"""The columns of ROUNDS that the server's log tells."""


def tasks_frame(clocks: Clocks, messages: Sequence[MessageRow]) -> pl.DataFrame:
    """Return TASKS."""
    ways: dict[tuple[str, str], MessageRow] = {(each.message, each.direction): each for each in messages}
    rows = [row for server in clocks.servers for row in _rows(server, clocks.clients, ways)]
    return pl.DataFrame(rows, schema=TASKS.schema)


def _rows(
    server: Process, clients: Sequence[ClientProcess], ways: Mapping[tuple[str, str], MessageRow]
) -> Iterator[Row]:
    side = side_of(server.told)
    own = clients_of(server, clients)
    for message in side.sent:
        event = side.sent[message][-1][1]
        row: Row = dict.fromkeys(TASKS.schema)
        row.update(trial=event.trial, round=event.round, message=message, client=event.client, kind=event.kind)
        row.update(down_encode_s=event.encode_s, down_queue_s=event.queue_s, down_bytes=event.size_bytes)
        if message in side.received:
            at, reply = side.received[message]
            row.update(reply_received_ns=at, server_decode_s=reply.decode_s, up_bytes=reply.size_bytes)
            row["error"] = getattr(reply, "error", None)
        row.update(_ways(ways.get((message, "down")), ways.get((message, "up"))))
        client = client_of(message, own.get(event.client, []))
        if client is not None:
            row.update(_at_client(message, client))
        yield row


def _ways(down: MessageRow | None, up: MessageRow | None) -> Row:
    row: Row = {}
    if down is not None:
        row.update(control=down.control, sent_ns=down.sent_ns, down_s=down.transfer_s, received_ns=down.received_ns)
        row.update(down_injected_s=down.injected_s, client_s=down.client_s, round_trip_s=down.round_trip_s)
        row.update(uncertainty_s=down.uncertainty_s, flags="; ".join(down.flags))
    if up is not None:
        row.update(up_s=up.transfer_s, up_injected_s=up.injected_s, reply_sent_ns=up.sent_ns)
        row.update(flags="; ".join(dict.fromkeys((*(down.flags if down else ()), *up.flags))))
    return row


def _at_client(message: str, client: OneClient) -> Row:
    side: Side = client.side
    row: Row = {}

    def on_server(mono_ns: int) -> int | None:
        return client.clock.on_server(mono_ns)[0] if client.clock else None

    if message in side.received:
        event = side.received[message][1]
        row.update(client_queue_s=getattr(event, "queue_s", None), client_decode_s=event.decode_s)
    if message in side.started and message in side.ended:
        at, ended = side.ended[message]
        row.update(compute_started_ns=on_server(side.started[message]), cpu_s=ended.cpu_s)
        row["compute_s"] = (at - side.started[message]) / 1e9
    if message in side.delayed:
        at, delayed = side.delayed[message]
        row.update(delay_requested_s=delayed.requested_s, delay_s=delayed.measured_s, delay_ended_ns=on_server(at))
    if message in side.sent:
        reply = side.sent[message][-1][1]
        row.update(up_encode_s=reply.encode_s, up_queue_s=reply.queue_s)
    return row


def phases_frame(servers: Sequence[Process]) -> pl.DataFrame:
    """Return PHASES."""
    rows = [
        (e.trial, e.round, e.phase, s.mono_ns - round(e.duration_s * 1e9), s.mono_ns, e.duration_s)
        for server in servers
        for s, e in server.told
        if isinstance(e, PhaseEnded)
    ]
    return pl.DataFrame(rows, schema=PHASES.schema, orient="row")


def rounds_frame(servers: Sequence[Process], trials: Sequence[Trial]) -> pl.DataFrame:
    """Return the columns of ROUNDS that the server's log tells; the others are the account's."""
    plans = {trial.plan.index: trial.plan for trial in trials}
    known = {(trial.plan.index, each.number): each for trial in trials for each in trial.rounds}
    rows: dict[tuple[int, int], Row] = {}
    for server in servers:
        for stamp, event in server.told:
            if isinstance(event, RoundStarted):
                plan, place = plans.get(event.trial), (event.trial, event.round)
                rows[place] = {
                    "trial": event.trial, "round": event.round, "started_ns": stamp.mono_ns, "control": event.control,
                    "condition": plan.condition if plan else None, "repeat": plan.repeat if plan else None,
                    "since_s": known[place].started_s if place in known else None,
                    "accuracy": known[place].accuracy if place in known else None,
                }  # fmt: skip
            elif isinstance(event, RoundEnded) and (event.trial, event.round) in rows:
                row = rows[event.trial, event.round]
                row.update(ended_ns=row["started_ns"] + round(event.duration_s * 1e9), round_s=event.duration_s)
    names = [
        "trial",
        "round",
        "condition",
        "repeat",
        "control",
        "started_ns",
        "ended_ns",
        "since_s",
        "round_s",
        "accuracy",
    ]
    return pl.DataFrame(list(rows.values()), schema={name: ROUNDS.schema[name] for name in names})


def samples_frame(clocks: Clocks) -> pl.DataFrame:
    """Return SAMPLES: of hosts whose clock is known."""
    if not clocks.servers:
        return pl.DataFrame(schema=SAMPLES.schema)
    zero_ns = clocks.servers[0].first_ns
    rows = []
    told = [(server, None) for server in clocks.servers] + [(each.process, each.clock) for each in clocks.clients]
    for process, clock in told:
        for stamp, event in process.told:
            if isinstance(event, HostSampled) and (clock or process in clocks.servers):
                at = clock.on_server(stamp.mono_ns)[0] if clock else stamp.mono_ns
                row = {name: getattr(event, name, None) for name in SAMPLES.schema}
                rows.append({**row, "host": process.host, "start_s": (at - zero_ns) / 1e9})
    return pl.DataFrame(rows, schema=SAMPLES.schema)


def offsets_frame(clocks: Clocks) -> pl.DataFrame:
    """Return OFFSETS."""
    rows = []
    for each in clocks.clients:
        if each.clock is None:
            continue
        first_ns, last_ns = each.process.first_ns, each.process.last_ns
        moments = [first_ns + (last_ns - first_ns) * part // 200 for part in range(201)]
        found = [each.clock.on_server(at) for at in moments]
        first = moments[0] - found[0][0]
        for at, (server_ns, uncertainty_s) in zip(moments, found, strict=True):
            offset_ms = (at - server_ns - first) / 1e6
            start_s = (server_ns - clocks.servers[0].first_ns) / 1e9
            width_ms = 1000 * uncertainty_s
            band = (offset_ms, offset_ms - width_ms, offset_ms + width_ms)
            rows.append((each.process.host, each.process.number, start_s, *band))
    return pl.DataFrame(rows, schema=OFFSETS.schema, orient="row")


def trips_frame(
    clients: Sequence[ClientProcess], idle: Sequence[IdleTrip], messages: Sequence[MessageRow]
) -> pl.DataFrame:
    """Return TRIPS."""
    rows: list[tuple[Any, ...]] = [
        (trip.client, "idle", trip.trial, trip.control, 1000 * trip.rtt_s, _ms(trip.injected_s)) for trip in idle
    ]
    for each in clients:
        for _, event in each.process.told:
            if isinstance(event, Probed):
                rows += [(event.client, event.stage, None, False, rtt_ms, 0.0) for rtt_ms in event.rtt_ms]
    rows += [(m.client, "tcp", m.trial, m.control, m.rtt_ms, None) for m in messages if m.rtt_ms is not None]
    return pl.DataFrame(rows, schema=TRIPS.schema, orient="row")


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else 1000 * value_s
