"""Runs the trials of a job one after another: the server drives the sequence, the clients follow.

Each trial starts from fresh state on every side. A campaign needs no controller once it runs.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from flcommon import flower
from flcommon.errors import FieldlabError
from flcommon.eventlog import now
from flcommon.events import (
    CampaignEnded,
    CampaignStarted,
    Listening,
    Ready,
    TrialEnded,
    TrialOpened,
    TrialPrepared,
)
from flcommon.seeding import seed_everything
from flserver.control import Control
from flserver.credentials import server_credentials
from flserver.grid import GrpcGrid
from flserver.quiet import Quiet
from flserver.rounds import Rounds
from flserver.strategies import StrategyWatch, TargetMet, watching

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flcommon.eventlog import EventLog
    from flcommon.job import ServerJob, ServerTrial


def run_campaign(job: ServerJob, log: EventLog, started: float) -> None:
    """Run all trials of the job; `started` is the process's start on `time.monotonic`. Raises FieldlabError."""
    grid = GrpcGrid(job.campaign, job.clients, log, job.transport, job.sample_every_s)
    grid.prepare_timeout_s = job.prepare_timeout_s
    with _closing(grid), grid.sampler:
        credentials = server_credentials(job.tls) if job.tls else None
        log.write(Listening(address=grid.streams.listen(job.listen, credentials)))
        importing = time.monotonic()
        app = flower.load_app(job.app.server, ServerApp, job.app.directory)
        flower.settle()
        loaded = time.monotonic()
        log.write(Ready(after_s=loaded - started, app_import_s=loaded - importing))
        grid.roster.wait_joined(job.join_timeout_s)
        log.write(CampaignStarted(trials=len(job.trials), clients=len(job.clients)))
        run_trials(job, app, grid, log)


def run_trials(job: ServerJob, app: ServerApp, grid: GrpcGrid, log: EventLog) -> None:
    """Run the warm-up and the trials; what ends the campaign early is noted and raised."""
    done, rounds = 0, 0
    quiet = Quiet(log.path.parent, log, job.pull_every_s)
    try:
        if job.warmup is not None:
            run_trial(job.warmup, app, grid, log)
        if job.probe:
            grid.probe("before")
        for trial in job.trials:
            if done:
                quiet.between(job.trials[done - 1].index, rounds, now())
            rounds = run_trial(trial, app, grid, log, quiet)
            done += 1
        if job.probe:
            grid.probe("after")
    finally:
        log.write(CampaignEnded(ok=done == len(job.trials), trials_done=done))


def run_trial(trial: ServerTrial, app: ServerApp, grid: GrpcGrid, log: EventLog, quiet: Quiet | None = None) -> int:
    """Run one trial from fresh state, and log it whether it succeeds or not; return how many rounds it had."""
    log.write(TrialOpened(trial=trial.index))
    rounds = Rounds(log, trial.index, quiet, Control(trial, grid.roster, log))
    grid.begin(trial.index, rounds)
    grid.roster.open_trial(trial.index)
    seed_everything(trial.seed)
    grid.roster.wait_prepared(trial.index, grid.prepare_timeout_s)
    log.write(TrialPrepared(trial=trial.index))
    ok = False
    names = {node_id: client for client, node_id in grid.roster.node_ids.items()}
    watch = StrategyWatch(trial, rounds, log, names, lambda: len(grid.roster.present))
    try:
        with watching(watch):
            _call(flower.fresh_server_app(app), grid, trial)
        ok = True
    finally:
        rounds.leave()
        log.write(TrialEnded(trial=trial.index, ok=ok, rounds=rounds.number, duration_s=rounds.total_s))
        grid.roster.close_trial(trial.index, ok=ok)
    return rounds.number


def _call(app: ServerApp, grid: GrpcGrid, trial: ServerTrial) -> None:
    context = Context(
        run_id=grid.run.run_id,
        node_id=flower.SERVER_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config=dict(trial.run_config),
    )
    try:
        app(grid=grid, context=context)
    except TargetMet:
        return


@contextmanager
def _closing(grid: GrpcGrid) -> Iterator[None]:
    """Say goodbye to the clients at the end, with the reason if it is an error."""
    try:
        yield
    except FieldlabError as error:
        grid.streams.close(str(error))
        raise
    except BaseException as error:
        grid.streams.close(f"{type(error).__name__} on the server")
        raise
    grid.streams.close()
