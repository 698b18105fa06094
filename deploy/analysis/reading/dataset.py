"""Reads a run directory into one `Dataset`: manifest and raw logs, nothing else, and never a live host.

What is missing or damaged in raw/ becomes a problem in words; only a directory without a readable manifest is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from deploy.analysis.clocks.clock import read_clocks
from deploy.analysis.clocks.idle import idle_trips
from deploy.analysis.reading.complaints import complaints
from deploy.analysis.reading.instructions import instructions
from deploy.analysis.reading.logs import read_logs
from deploy.analysis.reading.messages import messages_frame, ways
from deploy.analysis.reading.network import network, network_problems
from deploy.analysis.reading.rows import Dataset, Trial
from deploy.analysis.reading.serverlog import Trained, TrialLog, trained, trial_logs
from deploy.analysis.reading.tasks import (
    offsets_frame,
    phases_frame,
    rounds_frame,
    samples_frame,
    tasks_frame,
    trips_frame,
)
from deploy.analysis.reading.works import is_training, works_frame
from deploy.manifest import read_manifest
from flcommon.events import JobAccepted, MessageSent
from flcommon.job import WARMUP
from flcommon.process import EVENTS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from deploy.analysis.clocks.clock import Clocks
    from deploy.analysis.reading.logs import Logs
    from deploy.manifest import Manifest, PlannedTrial


def read_dataset(run: Path) -> Dataset:
    """Read the run in directory `run`; raises InputError when it holds no manifest that this version can read."""
    manifest = read_manifest(run)
    logs = read_logs({host: run / "raw" / host / EVENTS_FILE for host in manifest.hosts})
    clocks = read_clocks(run, manifest, logs)
    works = works_frame(logs, manifest.clients)
    trials = tuple(_trials(manifest, logs, works))
    told, samples = tuple(_problems(run, manifest, logs)), samples_frame(clocks, logs)
    tasks, messages = _exchanged(manifest, logs, clocks)
    idle = idle_trips(clocks.clients)
    found = network(manifest, clocks.clients, messages, idle)
    return Dataset(
        manifest=manifest,
        trials=trials,
        versions=dict(_versions(logs)),
        problems=(*told, *clocks.problems, *network_problems(found, clocks.clients)),
        messages=messages,
        works=works,
        clocks=tuple(clocks.found),
        network=found,
        tasks=tasks,
        phases=phases_frame(clocks.servers),
        rounds=rounds_frame(clocks.servers, trials),
        samples=samples,
        offsets=offsets_frame(clocks),
        zero_ns=clocks.servers[0].first_ns if clocks.servers else 0,
        processes={host: len(own) for host, own in logs.processes_of.items()},
        trips=trips_frame(clocks.clients, idle, messages),
    )


def _exchanged(manifest: Manifest, logs: Logs, clocks: Clocks) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return tasks and messages; the logs' frames, of which nothing more is needed, go: they are what is largest."""
    asked, states = instructions(manifest, logs, clocks)
    logs.frames.clear()
    down, up = ways(asked, states)
    tasks = tasks_frame(asked, down, up)
    return tasks, messages_frame(asked, down, up)


def _trials(manifest: Manifest, logs: Logs, works: pl.DataFrame) -> Iterator[Trial]:
    told = trial_logs(logs.told(manifest.server))
    servers = [process.index for process in logs.processes_of[manifest.server]]
    sent = logs.of(MessageSent).filter(pl.col("process").is_in(servers) & is_training())
    clients = trained(sent, works)
    for plan in sorted(manifest.trials, key=lambda planned: planned.index):
        yield _trial(plan, told.get(plan.index), clients.get(plan.index, {}))


def _trial(plan: PlannedTrial, log: TrialLog | None, clients: Mapping[int, Trained]) -> Trial:
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


def _versions(logs: Logs) -> Iterator[tuple[str, dict[str, str]]]:
    for host in logs.processes_of:
        for _, event in logs.told(host):
            if isinstance(event, JobAccepted):
                yield host, event.versions
                break


def _problems(run: Path, manifest: Manifest, logs: Logs) -> Iterator[str]:
    yield from (f"{host} took no part: {why}" for host, why in manifest.absent.items())
    yield from (f"{client} was missing at the end: {why}" for client, why in manifest.lost.items())
    indices = {WARMUP, *(trial.index for trial in manifest.trials)}
    trials = logs.trials()
    for host, problems in logs.problems.items():
        for problem in (*problems, *complaints(run, manifest.campaign, host, logs)):
            yield f"{host}: {problem}"
        unknown = trials[host] - indices
        if unknown:
            yield f"{host}: events of trials that the manifest does not know: {sorted(unknown)}"
    for name in sorted(_folders(run / "raw") - set(manifest.hosts)):
        yield f"raw/{name}: no host of this name in the manifest; ignored"


def _folders(raw: Path) -> set[str]:
    return {entry.name for entry in raw.iterdir() if entry.is_dir()} if raw.is_dir() else set()
