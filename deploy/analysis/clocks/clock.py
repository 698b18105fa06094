"""One time line for a run: the server's monotonic clock, and where each client's clock stands against it.

A monotonic clock does not step, so messages are put on it; how sure that is, is known at each moment
(`corridor`). For people there is the time of day too: how far a client's is from the server's, how fast it drifts, and
when it was set. Exchanges come from the gRPC stream, where what was injected is taken off, and from the
controller over SSH, which is never shaped. Both bound the same offset, so all of them are used: the
narrower bound counts at each moment, and `source` says whose that mostly is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
import polars as pl

from deploy.analysis.clocks.corridor import Bounds, Fit, fit
from deploy.analysis.clocks.exchanges import (
    NO_EXCHANGES,
    Process,
    Session,
    by_controller,
    grpc_bounds,
    process_of,
    read_ssh,
    sessions,
    ssh_bounds,
)
from deploy.analysis.clocks.injected import shaped
from deploy.analysis.clocks.wall import Step, WallClock, wall_clock
from flcommon.events import ClockExchange, MessageReceived

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from deploy.analysis.clocks.exchanges import Controller, Exchanges
    from deploy.analysis.clocks.injected import Shaped
    from deploy.analysis.reading.logs import Logs
    from deploy.manifest import Manifest

    Integers = NDArray[np.int64]
    Floats = NDArray[np.float64]

Source = Literal["gRPC", "SSH", "both"]
NS = 1_000_000_000
_BETTER = 0.9
"""Bounds together are better than those of one source, where they are narrower by a tenth."""


class ClockFound(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's exchanges tell of one client process's clocks against the server's; None where nothing does.

    `wall_offset_s` is the client's time of day minus the server's at its first exchange and at its last; drifts are
    without steps, positive where the client's clock is faster. `uncertainty_s` is the median over the exchanges, and
    `drift_uncertainty_ppm` a bound, not a standard deviation.
    """

    client: str
    process: int
    grpc_exchanges: int
    ssh_exchanges: int
    source: Source | None = None
    uncertainty_s: float | None = None
    mono_drift_ppm: float | None = None
    drift_uncertainty_ppm: float | None = None
    wall_offset_s: tuple[float, float] | None = None
    wall_drift_ppm: float | None = None
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class ClockMap:
    """Puts moments of a client process's monotonic clock on the time line of a server process."""

    fit: Fit
    zero_ns: int
    server_zero_ns: int

    def on_server(self, mono_ns: Integers) -> tuple[Integers, Floats]:
        """Return when those were by the server's monotonic clock, and the uncertainties in seconds, either way."""
        low, high = self.fit.limits((mono_ns - self.zero_ns) / NS)
        offset_ns = np.rint((low + high) / 2 * NS).astype(np.int64)
        return mono_ns - self.zero_ns - offset_ns + self.server_zero_ns, (high - low) / 2


@dataclass(frozen=True, eq=False)
class ClientProcess:
    """A client's process, the server's process that it belongs to, its link, their clocks' map and exchanges."""

    process: Process
    server: Process
    link: Shaped
    clock: ClockMap | None = None
    exchanges: Exchanges = NO_EXCHANGES


@dataclass
class Clocks:
    """All processes of a run with their clocks, what was found in numbers, and what is wrong in words."""

    servers: list[Process] = field(default_factory=list)
    clients: list[ClientProcess] = field(default_factory=list)
    found: list[ClockFound] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_clocks(run: Path, manifest: Manifest, logs: Logs) -> Clocks:
    """Compare the clocks of a run by its logs and clocks.jsonl; what is missing is a problem in words."""
    clocks = Clocks(servers=list(logs.processes_of[manifest.server]))
    ssh, problem = read_ssh(run)
    if problem:
        clocks.problems.append(problem)
    controllers = by_controller(ssh)
    told = logs.of(ClockExchange)
    heard = [sessions(server, told.filter(pl.col("process") == server.index)) for server in clocks.servers]
    received = set(logs.of(MessageReceived)["process"].unique())
    for client in manifest.clients:
        if clocks.servers:
            own = [each.get(client, []) for each in heard]
            _compare(clocks, logs.processes_of[client], own, controllers)
    clocks.problems += _untold(clocks, received)
    for server in clocks.servers:
        clocks.problems += [f"{server.host}: {_stepped(step, server.wall)}" for step in server.wall.steps]
    return clocks


def _compare(
    clocks: Clocks, own: Sequence[Process], heard: Sequence[Sequence[Session]], controllers: Sequence[Controller]
) -> None:
    """Find the clock of each of a client's processes; `heard` are its sessions by the server's process."""
    left, known = list(own), set()
    for server, found in zip(clocks.servers, heard, strict=True):
        for session in found:
            process = process_of(session, left)
            if process is not None:
                left = [each for each in left if each.number > process.number]
                known.add(process.number)
                _note(clocks, process, server, (session, controllers))
    for process in own:
        if process.number not in known:
            _note(clocks, process, clocks.servers[-1], (Session(process.host), controllers))


def _note(clocks: Clocks, process: Process, server: Process, told: tuple[Session, Sequence[Controller]]) -> None:
    """Add one process of a client."""
    session, controllers = told
    link = shaped(process.told)
    by_grpc = grpc_bounds(session, process.first_ns, server.first_ns, link)
    by_ssh = ssh_bounds(controllers, process, server)
    name = _name(process)
    whole, source = _together(by_grpc, by_ssh)
    if by_grpc and by_ssh and source == "gRPC" and whole and _contradict(whole, by_ssh):
        clocks.problems.append(f"{name}: its clock exchanges over SSH contradict those over gRPC; the latter are used")
    clock = ClockMap(whole, process.first_ns, server.first_ns) if whole else None
    clocks.clients.append(ClientProcess(process, server, link, clock, session.exchanges))
    counts = ClockFound(
        client=process.host, process=process.number, grpc_exchanges=len(by_grpc), ssh_exchanges=len(by_ssh)
    )
    if clock is None or source is None:
        clocks.found.append(counts)
        return
    found, problems = _found(counts, clock, (process, server, session), by_grpc + by_ssh)
    clocks.found.append(msgspec.structs.replace(found, source=source))
    clocks.problems += [f"{name}: {problem}" for problem in problems]


def _name(process: Process) -> str:
    return process.host + (f" (process {process.number + 1})" if process.number else "")


def _untold(clocks: Clocks, received: set[int]) -> Iterator[str]:
    """Yield sentences about processes that got messages and of whose clock nothing tells."""
    for each in clocks.clients:
        if each.clock is None and each.process.index in received:
            yield f"{_name(each.process)}: no exchange tells of its clock: one-way times are not known"


def _together(by_grpc: Bounds, by_ssh: Bounds) -> tuple[Fit | None, Source | None]:
    """Fit all exchanges, and say which of them made the bounds so narrow; those over SSH yield to a contradiction."""
    grpc, ssh = fit(by_grpc), fit(by_ssh)
    if grpc is None and ssh is None:
        return None, None
    both = fit(by_grpc + by_ssh) if by_grpc and by_ssh else grpc or ssh
    if grpc is None or ssh is None or both is None:
        return both, ("gRPC" if grpc else "SSH") if both else None
    if len(both.stretches) > len(grpc.stretches) or both.left_out > grpc.left_out + ssh.left_out:
        return grpc, "gRPC"
    at = by_grpc.upper_t
    alone = {"gRPC": _half_width_s(grpc, at), "SSH": _half_width_s(ssh, at)}
    if _half_width_s(both, at) < _BETTER * min(alone.values()):
        return both, "both"
    return both, "gRPC" if alone["gRPC"] <= alone["SSH"] else "SSH"


def _contradict(grpc: Fit, by_ssh: Bounds) -> bool:
    """Whether exchanges over SSH exclude what those over gRPC allow."""
    low, high = grpc.limits(by_ssh.upper_t)[0], grpc.limits(by_ssh.lower_t)[1]
    return bool(np.any(by_ssh.upper < low) or np.any(by_ssh.lower > high))


def _half_width_s(found: Fit, at: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    low, high = found.limits(at)
    return float(np.median(high - low)) / 2


def _found(
    counts: ClockFound, clock: ClockMap, who: tuple[Process, Process, Session], bounds: Bounds
) -> tuple[ClockFound, list[str]]:
    """Return the numbers for people, and what happened to the clocks in words."""
    process, server, session = who
    wall, server_wall = _wall(process, session), server.wall
    longest = max(clock.fit.stretches, key=lambda each: each.end - each.start)
    # The fit's drift is per second of the client's clock; per second of the server's it is larger by itself.
    drift = longest.drift / (1 - longest.drift)
    slept = [
        Step(of="monotonic", mono_ns=clock.zero_ns + round(at * NS), size_s=size) for at, size in clock.fit.steps()
    ]
    set_ = [step for step in wall.steps if not any(_same(step, each) for each in slept)]
    ends = [clock.zero_ns + round(at * NS) for at in (bounds.upper_t.min(), bounds.upper_t.max())]
    offsets = [_wall_offset_s(clock, wall, server_wall, at) for at in ends]
    found = msgspec.structs.replace(
        counts,
        uncertainty_s=_half_width_s(clock.fit, bounds.upper_t),
        mono_drift_ppm=1e6 * drift,
        drift_uncertainty_ppm=1e6 * max(longest.drifts[1] - longest.drift, longest.drift - longest.drifts[0]),
        wall_offset_s=(offsets[0], offsets[1]),
        wall_drift_ppm=1e6 * ((1 + drift) * (1 + wall.drift) / (1 + server_wall.drift) - 1),
        steps=tuple(sorted((*slept, *set_), key=lambda step: step.mono_ns)),
    )
    return found, list(_said(found, wall, clock.fit.left_out))


def _wall(process: Process, session: Session) -> WallClock:
    """Return a client's time of day against its monotonic clock, by all stamps that the logs of both sides hold."""
    told = session.exchanges
    return wall_clock(
        np.concatenate([process.mono_ns, told.received_ns]), np.concatenate([process.wall_ns, told.received_wall_ns])
    )


def _same(step: Step, slept: Step) -> bool:
    """Whether both clocks' jump is one: while a machine sleeps, its time of day gains what the other one loses."""
    return abs(step.size_s + slept.size_s) < 0.1 * abs(slept.size_s) + 1e-3


def _wall_offset_s(clock: ClockMap, wall: WallClock, server_wall: WallClock, mono_ns: int) -> float:
    """Return the client's time of day minus the server's at the same moment; integers first, for the sake of digits."""
    server_ns = int(clock.on_server(np.array([mono_ns]))[0][0])
    whole_ns = (mono_ns + wall.base_ns) - (server_ns + server_wall.base_ns)
    return whole_ns / NS + wall.minus_mono_s(mono_ns) - server_wall.minus_mono_s(server_ns)


def _said(found: ClockFound, wall: WallClock, left_out: int) -> Iterator[str]:
    yield from (_stepped(step, wall) for step in found.steps)
    if left_out:
        yield f"{left_out} of its clock exchanges contradict the others; they are left out"


def _stepped(step: Step, wall: WallClock) -> str:
    """Say that a clock jumped, and when by the host's own time of day."""
    ns = step.mono_ns + wall.base_ns + round(wall.minus_mono_s(step.mono_ns) * NS)
    at = f" at {datetime.fromtimestamp(ns / NS, UTC):%Y-%m-%d %H:%M:%S} UTC by its own time"
    if step.of == "monotonic":
        how = "stood still for" if step.size_s < 0 else "jumped ahead by"
        return f"its monotonic clock {how} {abs(step.size_s):.3f} s{at} (did the machine sleep?)"
    return f"its time of day was set {'forward' if step.size_s > 0 else 'back'} by {abs(step.size_s):.3f} s{at}"
