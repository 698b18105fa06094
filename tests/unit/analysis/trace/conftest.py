"""Makes data sets whose tasks are known to the nanosecond, and reads a trace as the format's description says."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import polars as pl
import pytest

from deploy.analysis.columns import PHASES, ROUNDS, SAMPLES, TASKS
from deploy.analysis.reading.rows import Dataset
from deploy.manifest import SCHEMA_VERSION, HostRecord, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import ModuleType

MS = 1_000_000
ZERO_NS = 5_000 * MS
LENGTHS = {
    "down_encode_s": 2, "down_queue_s": 3, "down_s": 20, "client_queue_s": 1, "client_decode_s": 4, "compute_s": 100,
    "delay_s": 50, "up_encode_s": 5, "up_queue_s": 6, "up_s": 30, "server_decode_s": 7,
}  # fmt: skip
"""Milliseconds of each step of a task, unless a test says otherwise."""

Row = dict[str, Any]


def task(client: str, sent_ms: int, place: tuple[int, int] = (0, 1), **lengths_ms: int) -> Row:
    """Make one task whose steps follow each other without a gap."""
    long = LENGTHS | lengths_ms
    at, moments = (ZERO_NS // MS + sent_ms), {}
    for name, steps in (
        ("received_ns", ("down_s",)),
        ("compute_started_ns", ("client_queue_s", "client_decode_s")),
        ("delay_ended_ns", ("compute_s", "delay_s")),
        ("reply_sent_ns", ("up_encode_s", "up_queue_s")),
        ("reply_received_ns", ("up_s",)),
    ):
        at += sum(long[step] for step in steps)
        moments[name] = at * MS
    whole = {"trial": place[0], "round": place[1], "control": False, "client": client, "kind": "train", "flags": ""}
    lengths = {name: ms / 1000 for name, ms in long.items()}
    message = f"m{place}-{client}-{sent_ms}"
    known = whole | lengths | moments | {"message": message, "sent_ns": (ZERO_NS // MS + sent_ms) * MS}
    return dict.fromkeys(TASKS.schema) | known | {"down_bytes": 248024, "up_bytes": 248024, "uncertainty_s": 0.0005}


def one_round(number: int, from_ms: int, to_ms: int, *, control: bool = False) -> Row:
    """Make a row of ROUNDS in trial 0, without the account's columns."""
    known = {"trial": 0, "round": number, "condition": 0, "repeat": 0, "control": control}
    moments = {"started_ns": ZERO_NS + from_ms * MS, "ended_ns": ZERO_NS + to_ms * MS}
    return known | moments | {"since_s": from_ms / 1000, "round_s": (to_ms - from_ms) / 1000, "accuracy": None}


def phase(name: str, from_ms: int, to_ms: int, number: int = 1) -> Row:
    """Make a row of PHASES in trial 0."""
    moments = {"started_ns": ZERO_NS + from_ms * MS, "ended_ns": ZERO_NS + to_ms * MS}
    return {"trial": 0, "round": number, "phase": name, **moments, "duration_s": (to_ms - from_ms) / 1000}


def dataset(tasks: Iterable[Row], **tables: Iterable[Row]) -> Dataset:
    """Make a data set of one server and the tasks' clients."""
    rows = list(tasks)
    roles = {"pi-b": "client", "server": "server"} | {row["client"]: "client" for row in rows}
    manifest = Manifest(
        schema=SCHEMA_VERSION, campaign="c-1", lab="bench", playbook="p", app="a", created_utc="2025-11-23T16:00:00Z",
        status="complete", error=None, versions={}, code_digest="", inventory={}, playbook_resolved={}, trials=(),
        hosts={name: HostRecord(role=role, facts={}) for name, role in roles.items()},  # type: ignore[arg-type]
        phases_s={},
    )  # fmt: skip
    rounds = {name: ROUNDS.schema[name] for name in one_round(1, 0, 1)}
    schemas = {"phases": PHASES.schema, "rounds": rounds, "samples": SAMPLES.schema}
    frames = {name: pl.DataFrame(list(tables.get(name, ())), schema=schema) for name, schema in schemas.items()}
    found = Dataset(manifest=manifest, trials=(), versions={}, problems=(), zero_ns=ZERO_NS)
    return msgspec.structs.replace(found, tasks=pl.DataFrame(rows, schema=TASKS.schema), **frames)


class Slice(NamedTuple):
    """One slice, in whole nanoseconds since the trace's zero; `inside` is the slice around it."""

    host: str
    thread: str
    name: str
    start_ns: int
    end_ns: int
    inside: str | None
    args: Row


class Read(NamedTuple):
    """A trace: its slices, its arrows as pairs of (host, thread, ns), its counters' values, and the whole."""

    slices: list[Slice]
    arrows: list[tuple[tuple[str, str, int], tuple[str, str, int]]]
    counters: dict[tuple[str, str], list[tuple[int, float]]]
    whole: Row

    def steps(self, host: str, thread: str) -> list[tuple[str, int, int]]:
        """Return the innermost slices of a thread, in milliseconds."""
        on_thread = [each for each in self.slices if (each.host, each.thread) == (host, thread)]
        return [(each.name, each.start_ns // MS, each.end_ns // MS) for each in on_thread]


def read(path: Path) -> Read:
    """Read a trace, and check on the way all that the format asks for."""
    whole = json.loads(path.read_text())
    events: list[Row] = whole["traceEvents"]
    assert {event["ph"] for event in events} <= set("MXsfC")
    hosts, threads = _named(events, "process_name"), _named(events, "thread_name")
    assert len({tid for _, tid in threads}) == len(threads)
    place = {(pid, tid): (hosts[pid, pid], name) for (pid, tid), name in threads.items()}
    slices = _slices(events, place)
    return Read(slices, _arrows(events, place, slices), _counters(events, hosts), whole)


def _named(events: Iterable[Row], kind: str) -> dict[tuple[int, int], str]:
    named = [event for event in events if event["ph"] == "M" and event["name"] == kind]
    found = {(event["pid"], event["tid"]): event["args"]["name"] for event in named}
    assert len(found) == len(named)
    return found


def _ns(time_us: float) -> int:
    whole = round(time_us * 1000)
    assert abs(time_us * 1000 - whole) < 1e-3
    return whole


def _slices(events: Iterable[Row], place: Mapping[tuple[int, int], tuple[str, str]]) -> list[Slice]:
    """Each has a time; on one thread they lie side by side or one in another, and the outer one stands first."""
    found: list[Slice] = []
    around: defaultdict[tuple[str, str], list[Slice]] = defaultdict(list)
    for event in (each for each in events if each["ph"] == "X"):
        where, start = place[event["pid"], event["tid"]], _ns(event["ts"])
        end = start + _ns(event["dur"])
        assert end > start
        stack = around[where]
        while stack and stack[-1].end_ns <= start:
            stack.pop()
        assert not stack or (stack[-1].start_ns <= start and end <= stack[-1].end_ns), (stack[-1], event)
        assert event["cat"]
        one = Slice(*where, event["name"], start, end, stack[-1].name if stack else None, event["args"])
        stack.append(one)
        found.append(one)
    return found


def _arrows(
    events: Iterable[Row], place: Mapping[tuple[int, int], tuple[str, str]], slices: Iterable[Slice]
) -> list[tuple[tuple[str, str, int], tuple[str, str, int]]]:
    """Each has one start and one end, of one name and category, both within slices, the end not before the start."""
    by_thread: defaultdict[tuple[str, str], list[Slice]] = defaultdict(list)
    for each in slices:
        by_thread[each.host, each.thread].append(each)
    ends: defaultdict[tuple[int, str, str], dict[str, tuple[str, str, int]]] = defaultdict(dict)
    for event in (each for each in events if each["ph"] in "sf"):
        where, at = place[event["pid"], event["tid"]], _ns(event["ts"])
        assert event["bp"] == "e"
        assert any(each.start_ns <= at < each.end_ns for each in by_thread[where])
        both = ends[event["id"], event["name"], event["cat"]]
        assert event["ph"] not in both
        both[event["ph"]] = (*where, at)
    assert all(set(both) == {"s", "f"} and both["s"][2] <= both["f"][2] for both in ends.values())
    return [(both["s"], both["f"]) for both in ends.values()]


def _counters(
    events: Iterable[Row], hosts: Mapping[tuple[int, int], str]
) -> dict[tuple[str, str], list[tuple[int, float]]]:
    found: defaultdict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for event in (each for each in events if each["ph"] == "C"):
        ((unit, value),) = event["args"].items()
        assert isinstance(value, float)
        found[hosts[event["pid"], event["pid"]], f"{event['name']} {unit}"].append((_ns(event["ts"]), value))
    return dict(found)


@pytest.fixture(scope="session")
def made() -> ModuleType:
    """This module: what tests build with."""
    return sys.modules[__name__]
