"""All logs of a run: hot kinds of events as one frame each, all others as objects by the process that wrote them.

Torn lines, gaps, events of a newer version and lines that stand there twice are reported in a sentence each; none is
fatal. Large logs are read by several processes, small ones by this: starting one costs as much as 100,000 lines.
"""

from __future__ import annotations

import io
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl

from deploy.analysis.clocks.exchanges import Process
from deploy.analysis.reading import kinds
from deploy.analysis.reading.flaws import Lines, problems_of
from deploy.analysis.reading.parsing import PIECE_BYTES, Flaw, Parsed, Piece, parse, pieces_of
from deploy.analysis.reading.worker import working
from deploy.errors import DeployError
from flcommon.eventlog import parse_line
from flcommon.events import Event, JobAccepted, OfTrial
from flcommon.process import EVENTS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from flcommon.events import AnyEvent, Stamp

    Integers = NDArray[np.int64]

ALONE_BYTES = 48 << 20
"""So much text is read by this process alone."""
MOST_WORKERS = 8


@dataclass
class Logs:
    """What the hosts' logs tell; `frames` have a column `process`, a place in `processes`, and are in the logs' order.

    Hosts without a log are in `processes_of` with none.
    """

    processes: list[Process] = field(default_factory=list)
    processes_of: dict[str, list[Process]] = field(default_factory=dict)
    frames: dict[str, pl.DataFrame] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def of(self, kind: type[Event]) -> pl.DataFrame:
        """Return the rows of a hot kind of event."""
        name = kinds.name_of(kind)
        return self.frames[name] if name in self.frames else pl.DataFrame(schema=frame_schema(kind))

    def told(self, host: str) -> list[tuple[Stamp, AnyEvent]]:
        """Return a host's events of all kinds that are not hot."""
        return [pair for process in self.processes_of[host] for pair in process.told]

    def trials(self) -> dict[str, set[int]]:
        """Return the trials of which each host's log tells."""
        found = {host: {e.trial for _, e in self.told(host) if isinstance(e, OfTrial)} for host in self.processes_of}
        for frame in self.frames.values():
            if "trial" in frame.columns:
                for process, trial in frame.select("process", "trial").unique().iter_rows():
                    found[self.processes[process].host].add(trial)
        return found


def frame_schema(kind: type[Event]) -> dict[str, type[pl.DataType]]:
    """Return the columns of a hot kind's rows in `Logs`."""
    return {"process": pl.Int64, **kinds.schema(kind)}


def read_logs(paths: Mapping[str, Path], alone_bytes: int = ALONE_BYTES) -> Logs:
    """Read the logs of hosts; raises DeployError if a process that reads them is killed."""
    logs = Logs(processes_of={host: [] for host in paths}, problems={host: [] for host in paths})
    found = _Found()
    for host, path in paths.items():
        found.hosts.append(host)
        try:
            pieces = pieces_of(str(path))
            if not pieces:
                logs.problems[host].append(f"{EVENTS_FILE} is empty")
        except FileNotFoundError:
            pieces = []
            logs.problems[host].append(f"{EVENTS_FILE} is missing")
        except OSError as error:
            pieces = []
            logs.problems[host].append(f"{EVENTS_FILE} cannot be read: {error.strerror}")
        found.pieces += [(len(found.hosts) - 1, piece) for piece in pieces]
    for batch, parsed in _parsed(found.batches(), alone_bytes):
        for piece, why in found.take(batch, parsed).items():
            logs.problems[found.hosts[piece]].append(f"{EVENTS_FILE} cannot be read: {why}")
    found.into(logs)
    return logs


_Batch = list[tuple[int, Piece]]


def _parsed(batches: Sequence[_Batch], alone_bytes: int) -> Iterator[tuple[_Batch, Parsed]]:
    """Yield what each batch holds, in order."""
    size = sum(piece.end - piece.start for batch in batches for _, piece in batch)
    workers = min(_processors(), MOST_WORKERS, len(batches))
    if size <= alone_bytes or workers < 2:  # noqa: PLR2004 - one does not share
        yield from ((batch, parse([piece for _, piece in batch])) for batch in batches)
        return
    shares = [batches[number::workers] for number in range(workers)]
    work = [[[piece for _, piece in batch] for batch in share] for share in shares]
    try:
        with ExitStack() as stack:
            results = [stack.enter_context(working(share)) for share in work]
            for number, batch in enumerate(batches):
                yield batch, next(results[number % workers])
    except (EOFError, BrokenPipeError) as error:
        raise DeployError("a process that was reading the logs has died: was there too little memory?") from error


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Found:
    """What was parsed so far; lines are numbered through all logs."""

    hosts: list[str] = field(default_factory=list)
    pieces: _Batch = field(default_factory=list)
    lines: int = 0
    lines_of: dict[int, int] = field(default_factory=dict)
    stamps: list[pl.DataFrame] = field(default_factory=list)
    frames: dict[str, list[pl.DataFrame]] = field(default_factory=dict)
    cold: list[tuple[int, bytes]] = field(default_factory=list)
    flaws: list[Flaw] = field(default_factory=list)

    def batches(self) -> list[_Batch]:
        """Put pieces together to such of about the same size."""
        found: list[_Batch] = []
        room = 0
        for host, piece in self.pieces:
            if room <= 0:
                found.append([])
                room = PIECE_BYTES
            found[-1].append((host, piece))
            room -= piece.end - piece.start
        return found

    def take(self, batch: _Batch, parsed: Parsed) -> dict[int, str]:
        """Take in what a batch held; return why a host's log could not be read."""
        base = self.lines
        self.stamps.append(_unpacked(parsed.stamps, base))
        for name, packed in parsed.frames.items():
            self.frames.setdefault(name, []).append(_unpacked(packed, base))
        self.cold += [(base + at, line) for at, line in parsed.cold]
        self.flaws += [msgspec.structs.replace(flaw, at=base + flaw.at) for flaw in parsed.flaws]
        for (host, _), count in zip(batch, parsed.lines, strict=True):
            self.lines_of[host] = self.lines_of.get(host, 0) + count
            self.lines += count
        return {batch[piece][0]: why for piece, why in parsed.unreadable.items()}

    def into(self, logs: Logs) -> None:
        """Give each event to the process that wrote it, and say what was wrong."""
        stamps = (
            pl.concat(self.stamps)
            if self.stamps
            else pl.DataFrame(schema=dict.fromkeys(("at", *kinds.STAMP), pl.Int64))
        )
        self.stamps.clear()
        ends = np.cumsum([self.lines_of.get(number, 0) for number in range(len(self.hosts))], dtype=np.int64)
        lines = Lines(self.hosts, ends, *(stamps[name].to_numpy() for name in ("at", *kinds.STAMP)))
        twice = lines.twice()
        events = self._events(twice)
        jobs = {at for at, (_, event) in events.items() if isinstance(event, JobAccepted)}
        for host, problem in problems_of(lines, twice, self.flaws, jobs):
            logs.problems[host].append(problem)
        lines = lines.without(twice)
        starts = lines.starts(jobs)
        _processes(logs, lines, starts, events)
        for name in list(self.frames):
            logs.frames[name] = _owned(pl.concat(self.frames.pop(name)), starts, twice)

    def _events(self, twice: Integers) -> dict[int, tuple[Stamp, AnyEvent]]:
        found, left_out = {}, set(twice.tolist())
        for at, line in self.cold:
            if at not in left_out:
                try:
                    found[at] = parse_line(line)
                except msgspec.MsgspecError as error:
                    self.flaws.append(Flaw(at, f"unusable ({error})"))
        return found


def _unpacked(packed: bytes, base: int) -> pl.DataFrame:
    return pl.read_ipc_stream(io.BytesIO(packed)).with_columns(pl.col("at") + base)


def _owned(frame: pl.DataFrame, starts: Integers, twice: Integers) -> pl.DataFrame:
    """Add the process that wrote each row."""
    at = frame["at"].to_numpy()
    frame = frame.select(pl.Series("process", np.searchsorted(starts, at, side="right") - 1), pl.all())
    return frame.filter(~np.isin(at, twice)) if len(twice) else frame


def _processes(logs: Logs, lines: Lines, starts: Integers, events: Mapping[int, Any]) -> None:
    numbers = sorted(events)
    cuts = np.searchsorted(numbers, starts) if numbers else np.zeros(len(starts), dtype=np.int64)
    edges = np.searchsorted(lines.at, starts)
    for place, start in enumerate(starts.tolist()):
        host = lines.host(start)
        last = place + 1 == len(starts)
        part = slice(edges[place], None if last else edges[place + 1])
        own = numbers[cuts[place] : None if last else cuts[place + 1]]
        process = Process(
            host=host,
            number=len(logs.processes_of[host]),
            told=[events[at] for at in own],
            index=place,
            mono_ns=lines.mono_ns[part],
            wall_ns=lines.wall_ns[part],
        )
        logs.processes.append(process)
        logs.processes_of[host].append(process)
