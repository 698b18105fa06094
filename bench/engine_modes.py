"""What bench/engine.py measures besides the table; each function returns its tables as text."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import ours
import start_server
import superlink as flower_superlink
from engine_figures import markdown, met, round_ms, spread
from outcome import Work
from processes import REPOSITORY, BenchmarkFailed

from flcommon.events import ReplyReceived

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outcome import Outcome

    from flcommon.job import ConfigValue

CNN_BYTES = 248_024
MANY = 200
EVENTS_SHARE, EVENTS_MS = 0.01, 1.0
MEMORY_BAR = 2.5
MUTED = ours.Engine(program=(str(REPOSITORY / "bench" / "muted.py"),))
BOUNDARY_TRIALS, BOUNDARY_ROUNDS = 10, 2
CIFAR10: dict[str, ConfigValue] = {"data.set": "digits", "data.partition": "full", "subset": 64, "threads": 1}


def superlink(rounds: int) -> list[str]:
    """Compare all of Flower's engines and ours, once: 3 clients, 248 kB."""
    work = Work(3, CNN_BYTES, 200, 20)
    found = {
        "SuperLink, SuperNodes": flower_superlink.run(Work(3, CNN_BYTES, rounds, 1)),
        "start_server, NumPyClient": start_server.run(work, "numpy"),
        "start_server": start_server.run(work, "unread"),
        "ours": ours.run(ours.payload(work)).outcome,
    }
    rows = [["3 clients, 248 kB, one round", "rounds", "median s", "min s", "max s"]]
    for name, one in found.items():
        figures = (one.median_s, min(one.round_s), max(one.round_s))
        rows.append([name, str(len(one.round_s)), *(f"{figure:.3g}" for figure in figures)])
    return [markdown(rows)]


def many(rounds: int) -> list[str]:
    """Run 200 clients; raises BenchmarkFailed on any error."""
    work = Work(MANY, CNN_BYTES, rounds, 1)
    ran = ours.run(ours.payload(work))
    replies = [event for _, event in ran.events if isinstance(event, ReplyReceived)]
    failed = [event for event in replies if event.error is not None]
    if failed or len(replies) != MANY * (rounds + work.warmup):
        raise BenchmarkFailed(f"{len(replies)} replies, {len(failed)} of them errors")
    outcome, usage = ran.outcome, ran.usage
    largest = max(peak for name, peak in usage.peak_mb.items() if name != ours.SERVER)
    header = [f"{MANY} clients, 248 kB", "rounds", "errors", "median ms", "p90 ms", "CPU s a round"]
    memory = ["server MB", "server threads", "largest client MB"]
    row = ["ours", str(rounds), "0", *round_ms([outcome]), f"{outcome.cpu_s:.3g}"]
    row += [f"{usage.peak_mb[ours.SERVER]:.0f}", str(usage.threads[ours.SERVER]), f"{largest:.0f}"]
    return [markdown([[*header, *memory], row])]


def events(pairs: int) -> list[str]:
    """Compare rounds with the timing log and without: trials take turns in the same processes, difference by pair."""
    rows = [["248 kB, log on against off", "pairs of trials", "on ms", "off ms", "difference ms", "allowed ms", ""]]
    for clients, rounds in ((3, 50), (30, 15)):
        config: dict[str, ConfigValue] = {"payload-bytes": CNN_BYTES}
        experiment = ours.Experiment(clients, rounds, 2 * pairs, run_config=config)
        medians = [statistics.median(trial) * 1e3 for trial in ours.run(experiment, MUTED).rounds_by_trial()]
        on, off = medians[::2], medians[1::2]
        allowed = max(EVENTS_SHARE * statistics.median(off), EVENTS_MS)
        differences = [one - other for one, other in zip(on, off, strict=True)]
        figures = [f"{statistics.median(on):.2f}", f"{statistics.median(off):.2f}", spread(differences)]
        verdict = met(statistics.median(differences), allowed)
        rows.append([f"{clients} clients", f"{pairs} of {rounds} rounds", *figures, f"{allowed:.2f}", verdict])
    return [markdown(rows)]


def large(megabytes: Sequence[float], *, tls: bool) -> list[str]:
    """Send one array to one client and back; memory is what the processes' peaks grow by, over those with 1 kB.

    The app itself holds two messages at the server (the one it sends, and the reply that it compares with it) and one
    at the client (it sends back what it got): these are subtracted.
    """
    engine = ours.WITH_TLS if tls else ours.PLAIN
    small = _one_client(1_000, engine)
    columns = ["rounds", "s a round", "MB/s", "server peak", "beyond the app", "client peak", "beyond the app", ""]
    rows = [["one client, there and back" + (", TLS" if tls else ""), *columns]]
    for one in megabytes:
        size_bytes = int(one * 1e6) // 8 * 8
        found = _one_client(size_bytes, engine)
        grown = [_grown(found, small, name) / one for name in (ours.SERVER, "client-0")]
        beyond = [grown[0] - 2, grown[1] - 1]
        memory = [f"{figure:.2f} x" for pair in zip(grown, beyond, strict=True) for figure in pair]
        speed = f"{2 * one / found.median_s:.0f}"
        row = [f"{one:g} MB", str(len(found.round_s)), f"{found.median_s:.2f}", speed, *memory]
        rows.append([*row, met(max(beyond), MEMORY_BAR)])
    return [markdown(rows), f"Wanted: at most {MEMORY_BAR:g} x the message beyond the app's own.\n"]


def _one_client(size_bytes: int, engine: ours.Engine) -> Outcome:
    return ours.run(ours.payload(Work(1, size_bytes, 3, 1)), engine).outcome


def _grown(found: Outcome, small: Outcome, name: str) -> float:
    return found.usage.peak_mb[name] - small.usage.peak_mb[name]


def boundaries(app: str) -> list[str]:
    """Measure the seconds between trials, of the payload app or of the PyTorch app."""
    config: dict[str, ConfigValue] = {"payload-bytes": CNN_BYTES} if app == "payload" else CIFAR10
    apps = f"flclient.apps.{app}"
    experiment = ours.Experiment(3, BOUNDARY_ROUNDS, BOUNDARY_TRIALS, BOUNDARY_ROUNDS, apps, config)
    found = ours.run(experiment).boundaries_s()
    times = [f"{statistics.median(found) * 1e3:.1f}", f"{max(found) * 1e3:.1f}"]
    header = ["trial boundary of ours, 3 clients", "boundaries", "median ms", "max ms"]
    return [markdown([header, [app, str(len(found)), *times]])]
