"""Each table of a run as a frame: those that the analysis has, and those that sum it up; no files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from deploy.analysis.columns import (
    CLIENTS,
    MESSAGES,
    OFFSETS,
    PHASES,
    ROUNDS,
    SAMPLES,
    STRAGGLERS,
    TASKS,
    TRIPS,
    WHAT_IF,
    Table,
)
from deploy.analysis.export.columns import CLOCKS, CONDITIONS, HOSTS, NETWORK, TRIALS
from deploy.labels import value_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from deploy.analysis.clocks.clock import ClockFound
    from deploy.analysis.reading.network import NetworkRow, WayFound
    from deploy.analysis.reading.rows import Dataset, Trial
    from deploy.analysis.statistics.conditions import Analysis
    from deploy.analysis.statistics.interval import Interval

Row = dict[str, Any]


def tables(analysis: Analysis) -> Iterator[tuple[Table, pl.DataFrame]]:
    """Yield every table that stands beside the data set."""
    dataset, account = analysis.dataset, analysis.account
    yield ROUNDS, account.rounds
    yield PHASES, dataset.phases
    yield CLIENTS, account.clients
    yield STRAGGLERS, account.stragglers
    yield WHAT_IF, account.what_if
    yield TASKS, dataset.tasks
    yield MESSAGES, dataset.messages
    yield NETWORK, _frame(NETWORK, _network(dataset))
    yield HOSTS, _frame(HOSTS, _hosts(dataset))
    yield SAMPLES, dataset.samples
    yield CLOCKS, _frame(CLOCKS, (_clock(each) for each in dataset.clocks))
    yield OFFSETS, dataset.offsets
    yield TRIPS, dataset.trips
    yield CONDITIONS, _frame(CONDITIONS, _conditions(analysis))
    yield TRIALS, _frame(TRIALS, (_trial(each) for each in dataset.trials))


def _frame(table: Table, rows: Iterable[Row]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=table.schema)


def _trial(trial: Trial) -> Row:
    plan = trial.plan
    return {
        "trial": plan.index,
        **{name: getattr(plan, name) for name in ("condition", "repeat", "schedule", "seed")},
        "settings": value_text(plan.settings),
        "probability": plan.delay.probability if plan.delay else 0.0,
        "rounds": len(trial.rounds),
        **{name: getattr(trial, name) for name in ("status", "total_s", "target_s", "censored", "accuracy")},
    }


def _conditions(analysis: Analysis) -> Iterator[Row]:
    own = [name for name in CONDITIONS.schema if name != "condition"]
    for each in analysis.conditions:
        yield {"condition": each.plan.condition, **{name: getattr(each, name) for name in own}}


def _network(dataset: Dataset) -> Iterator[Row]:
    found = dataset.network
    for row in (*(client.whole for client in found.clients), *found.rows):
        yield {
            **{name: getattr(row, name) for name in ("client", "condition", "control", "layer", "messages")},
            "flagged": "; ".join(f"{flag}: {count}" for flag, count in row.flagged.items()),
            **_interval("natural_rtt_ms", row.natural_rtt_ms),
            **_ways(row),
        }


def _ways(row: NetworkRow) -> Row:
    return {key: value for name in ("down", "up") for key, value in _way(name, getattr(row, name)).items()}


def _way(name: str, way: WayFound) -> Row:
    plain = [field for field in way.__struct_fields__ if field not in {"natural_ms", "transfer_ms"}]
    return {
        **_interval(f"{name}_natural_ms", way.natural_ms),
        **_interval(f"{name}_transfer_ms", way.transfer_ms),
        **{f"{name}_{field}": getattr(way, field) for field in plain},
    }


def _interval(name: str, found: Interval | None) -> Row:
    low, high = name.replace("_ms", "_low_ms"), name.replace("_ms", "_high_ms")
    return {name: found and found.median, low: found and found.low, high: found and found.high}


def _hosts(dataset: Dataset) -> Iterator[Row]:
    for name, record in dataset.manifest.hosts.items():
        yield {
            "host": name,
            "role": record.role,
            **{fact: _fact(record.facts, fact) for fact in HOSTS.schema if fact in record.facts},
            "versions": "; ".join(
                f"{package} {version}" for package, version in dataset.versions.get(name, {}).items()
            ),
            "processes": dataset.processes.get(name, 0),
        }


def _fact(facts: Mapping[str, Any], name: str) -> str | int | None:
    """Return what a look at the host found, as its column takes it: facts are whatever the host said."""
    value = facts[name]
    if HOSTS.schema[name] == pl.Int64:
        return value if isinstance(value, int) else None
    return None if value is None else str(value)


def _clock(found: ClockFound) -> Row:
    first_s, last_s = found.wall_offset_s or (None, None)
    own = [name for name in CLOCKS.schema if name in found.__struct_fields__ and name != "steps"]
    return {
        **{name: getattr(found, name) for name in own},
        "wall_offset_first_s": first_s,
        "wall_offset_last_s": last_s,
        "steps": len(found.steps),
    }
