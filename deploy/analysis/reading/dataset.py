"""Reads a run directory into one `Dataset`: manifest and raw logs, nothing else, and never a live host.

What is missing or damaged in raw/ becomes a problem in words; only a directory without a readable manifest is refused.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from deploy.analysis.clocks.clock import read_clocks
from deploy.analysis.clocks.idle import idle_trips
from deploy.analysis.reading.clientlog import client_rounds
from deploy.analysis.reading.complaints import complaints
from deploy.analysis.reading.messages import message_rows
from deploy.analysis.reading.network import network, network_problems
from deploy.analysis.reading.rows import Dataset, Trial
from deploy.analysis.reading.serverlog import TrialLog, trial_logs
from deploy.analysis.reading.tasks import (
    offsets_frame,
    phases_frame,
    rounds_frame,
    samples_frame,
    tasks_frame,
    trips_frame,
)
from deploy.errors import InputError
from deploy.manifest import MANIFEST_FILE, SCHEMA_VERSION, Manifest
from flcommon.eventlog import Reading, read_log
from flcommon.events import JobAccepted, OfTrial
from flcommon.job import WARMUP
from flcommon.process import EVENTS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from deploy.analysis.reading.rows import ClientRound
    from deploy.manifest import PlannedTrial
    from flcommon.events import AnyEvent, Stamp

_ByTrial = defaultdict[int, dict[int, list["ClientRound"]]]


def read_dataset(run: Path) -> Dataset:
    """Read the run in directory `run`; raises InputError when it holds no manifest that this version can read."""
    manifest = read_manifest(run)
    readings = {host: _read(run / "raw" / host / EVENTS_FILE) for host in manifest.hosts}
    clocks = read_clocks(run, manifest, readings)
    messages = tuple(message_rows(manifest, clocks.servers, clocks.clients))
    idle = tuple(idle_trips(clocks.clients))
    found = network(manifest, clocks.clients, messages, idle)
    told = (*_problems(run, manifest, readings), *clocks.problems, *network_problems(found, clocks.clients))
    trials = tuple(_trials(manifest, readings))
    return Dataset(
        manifest=manifest,
        trials=trials,
        versions=dict(_versions(readings)),
        problems=told,
        messages=messages,
        clocks=tuple(clocks.found),
        network=found,
        zero_ns=clocks.servers[0].first_ns if clocks.servers else 0,
        tasks=tasks_frame(clocks, messages),
        phases=phases_frame(clocks.servers),
        rounds=rounds_frame(clocks.servers, trials),
        samples=samples_frame(clocks),
        offsets=offsets_frame(clocks),
        trips=trips_frame(clocks.clients, idle, messages),
    )


def read_manifest(run: Path) -> Manifest:
    """Read `run`/manifest.json; raises InputError that names the file and what is wrong with it."""
    path = run / MANIFEST_FILE
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise InputError(path, f"this is not a run directory: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(path, f"not a valid manifest: {error}") from error
    if manifest.schema != SCHEMA_VERSION:
        raise InputError(path, f"this version reads schema {SCHEMA_VERSION}, not {manifest.schema}", key="schema")
    return manifest


def _read(path: Path) -> Reading:
    try:
        return read_log(path)
    except FileNotFoundError:
        return Reading(problems=[f"{EVENTS_FILE} is missing"])
    except OSError as error:
        return Reading(problems=[f"{EVENTS_FILE} cannot be read: {error.strerror}"])


def _trials(manifest: Manifest, readings: Mapping[str, Reading]) -> Iterator[Trial]:
    logs = trial_logs(_events(manifest, readings, "server"))
    clients = _training(manifest, readings)
    for plan in sorted(manifest.trials, key=lambda planned: planned.index):
        yield _trial(plan, logs.get(plan.index), clients[plan.index])


def _trial(plan: PlannedTrial, log: TrialLog | None, clients: Mapping[int, list[ClientRound]]) -> Trial:
    known = log or TrialLog()
    target_s = known.target_s if plan.stop else None
    whole_s = known.ended.duration_s if known.ended and known.ended.ok else None
    return Trial(
        plan=plan,
        status=known.status if log else "not started",
        total_s=target_s if whole_s is not None and target_s is not None else whole_s,
        target_s=target_s,
        accuracy=known.last_accuracy,
        rounds=known.rounds(clients),
    )


def _training(manifest: Manifest, readings: Mapping[str, Reading]) -> _ByTrial:
    rows: _ByTrial = defaultdict(lambda: defaultdict(list))
    for host, record in manifest.hosts.items():
        if record.role == "client":
            for (trial, number), found in client_rounds(readings[host].events).items():
                rows[trial][number] += found
    return rows


def _events(manifest: Manifest, readings: Mapping[str, Reading], role: str) -> list[tuple[Stamp, AnyEvent]]:
    hosts = [host for host, record in manifest.hosts.items() if record.role == role]
    return [pair for host in hosts for pair in readings[host].events]


def _versions(readings: Mapping[str, Reading]) -> Iterator[tuple[str, dict[str, str]]]:
    for host, reading in readings.items():
        for _, event in reading.events:
            if isinstance(event, JobAccepted):
                yield host, event.versions
                break


def _problems(run: Path, manifest: Manifest, readings: Mapping[str, Reading]) -> Iterator[str]:
    yield from (f"{host} took no part: {why}" for host, why in manifest.absent.items())
    yield from (f"{client} was missing at the end: {why}" for client, why in manifest.lost.items())
    indices = {WARMUP, *(trial.index for trial in manifest.trials)}
    for host, reading in readings.items():
        for problem in (*reading.problems, *complaints(run, manifest.campaign, host, readings)):
            yield f"{host}: {problem}"
        unknown = {event.trial for _, event in reading.events if isinstance(event, OfTrial)} - indices
        if unknown:
            yield f"{host}: events of trials that the manifest does not know: {sorted(unknown)}"
    for name in sorted(_folders(run / "raw") - set(manifest.hosts)):
        yield f"raw/{name}: no host of this name in the manifest; ignored"


def _folders(raw: Path) -> set[str]:
    return {entry.name for entry in raw.iterdir() if entry.is_dir()} if raw.is_dir() else set()
