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

from deploy.analysis.clocks.corridor import Bounds, Fit, fit
from deploy.analysis.clocks.exchanges import (
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
from flcommon.eventlog import processes
from flcommon.events import MessageReceived

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from deploy.analysis.clocks.injected import Shaped
    from deploy.clockline import ClockLine
    from deploy.manifest import Manifest
    from flcommon.eventlog import Reading
    from flcommon.events import ClockExchange, Stamp

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

    def on_server(self, mono_ns: int) -> tuple[int, float]:
        """Return when that was by the server's monotonic clock, and the uncertainty in seconds, in either direction."""
        at = np.array([(mono_ns - self.zero_ns) / NS])
        low, high = (float(limit[0]) for limit in self.fit.limits(at))
        offset_ns = round((low + high) / 2 * NS)
        return mono_ns - self.zero_ns - offset_ns + self.server_zero_ns, (high - low) / 2


@dataclass(frozen=True)
class ClientProcess:
    """A client's process, the server's process that it belongs to, its link, their clocks' map and exchanges."""

    process: Process
    server: Process
    link: Shaped
    clock: ClockMap | None = None
    exchanges: Sequence[tuple[Stamp, ClockExchange]] = ()


@dataclass
class Clocks:
    """All processes of a run with their clocks, what was found in numbers, and what is wrong in words."""

    servers: list[Process] = field(default_factory=list)
    clients: list[ClientProcess] = field(default_factory=list)
    found: list[ClockFound] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_clocks(run: Path, manifest: Manifest, readings: Mapping[str, Reading]) -> Clocks:
    """Compare the clocks of a run by its logs and clocks.jsonl; what is missing is a problem in words."""
    clocks = Clocks()
    ssh, problem = read_ssh(run)
    if problem:
        clocks.problems.append(problem)
    controllers = by_controller(ssh)
    clocks.servers += _processes(manifest.server, readings)
    for client in manifest.clients:
        if clocks.servers:
            _compare(clocks, _processes(client, readings), controllers)
    for server in clocks.servers:
        wall = wall_clock((stamp.mono_ns, stamp.wall_ns) for stamp, _ in server.told)
        clocks.problems += [f"{server.host}: {_stepped(step, wall)}" for step in (wall.steps if wall else ())]
    return clocks


def _processes(host: str, readings: Mapping[str, Reading]) -> list[Process]:
    return [Process(host, number, told) for number, told in enumerate(processes(readings[host].events))]


def _compare(clocks: Clocks, own: Sequence[Process], controllers: Sequence[Sequence[ClockLine]]) -> None:
    """Find the clock of each of a client's processes."""
    left = list(own)
    for server in clocks.servers:
        for session in sessions(server.told):
            if not own or session.client != own[0].host:
                continue
            process = process_of(session, left)
            if process is not None:
                left = [each for each in left if each.number > process.number]
                _note(clocks, process, server, (session, controllers))
    known = {each.process.number for each in clocks.clients if own and each.process.host == own[0].host}
    for process in own:
        if process.number not in known:
            _note(clocks, process, clocks.servers[-1], (Session(process.host), controllers))


def _note(
    clocks: Clocks, process: Process, server: Process, told: tuple[Session, Sequence[Sequence[ClockLine]]]
) -> None:
    """Add one process of a client."""
    session, controllers = told
    link = shaped(process.told)
    by_grpc = grpc_bounds(session, process.first_ns, server.first_ns, link)
    by_ssh = ssh_bounds(controllers, process, server)
    name = process.host + (f" (process {process.number + 1})" if process.number else "")
    whole, source = _together(by_grpc, by_ssh)
    if by_grpc and by_ssh and source == "gRPC" and whole and _contradict(whole, by_ssh):
        clocks.problems.append(f"{name}: its clock exchanges over SSH contradict those over gRPC; the latter are used")
    clock = ClockMap(whole, process.first_ns, server.first_ns) if whole else None
    clocks.clients.append(ClientProcess(process, server, link, clock, session.exchanges))
    counts = ClockFound(
        client=process.host, process=process.number, grpc_exchanges=len(by_grpc), ssh_exchanges=len(by_ssh)
    )
    if clock is None or source is None:
        if any(isinstance(event, MessageReceived) for _, event in process.told):
            clocks.problems.append(f"{name}: no exchange tells of its clock: one-way times are not known")
        clocks.found.append(counts)
        return
    found, problems = _found(counts, clock, (process, server, session), by_grpc + by_ssh)
    clocks.found.append(msgspec.structs.replace(found, source=source))
    clocks.problems += [f"{name}: {problem}" for problem in problems]


def _together(by_grpc: Bounds, by_ssh: Bounds) -> tuple[Fit | None, Source | None]:
    """Fit all exchanges, and say which of them made the bounds so narrow; those over SSH yield to a contradiction."""
    grpc, ssh, both = fit(by_grpc), fit(by_ssh), fit(by_grpc + by_ssh)
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
    wall, server_wall = _walls(process, server, session)
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
        wall_drift_ppm=1e6 * ((1 + drift) * (1 + wall.drift()) / (1 + server_wall.drift()) - 1),
        steps=tuple(sorted((*slept, *set_), key=lambda step: step.mono_ns)),
    )
    return found, list(_said(found, wall, clock.fit.left_out))


def _walls(process: Process, server: Process, session: Session) -> tuple[WallClock, WallClock]:
    """Return both times of day against their monotonic clocks, by all stamps that the logs hold."""
    own = [(stamp.mono_ns, stamp.wall_ns) for stamp, _ in process.told]
    told = [(event.client_received_mono_ns, event.client_received_wall_ns) for _, event in session.exchanges]
    theirs = [(stamp.mono_ns, stamp.wall_ns) for stamp, _ in server.told]
    wall, server_wall = wall_clock(own + told), wall_clock(theirs)
    assert wall is not None  # noqa: S101 - a process has at least one stamp
    assert server_wall is not None  # noqa: S101 - the same
    return wall, server_wall


def _same(step: Step, slept: Step) -> bool:
    """Whether both clocks' jump is one: while a machine sleeps, its time of day gains what the other one loses."""
    return abs(step.size_s + slept.size_s) < 0.1 * abs(slept.size_s) + 1e-3


def _wall_offset_s(clock: ClockMap, wall: WallClock, server_wall: WallClock, mono_ns: int) -> float:
    """Return the client's time of day minus the server's at the same moment; integers first, for the sake of digits."""
    server_ns, _ = clock.on_server(mono_ns)
    whole_ns = (mono_ns + wall.base_ns) - (server_ns + server_wall.base_ns)
    return whole_ns / NS + wall.minus_mono_s(mono_ns) - server_wall.minus_mono_s(server_ns)


def _said(found: ClockFound, wall: WallClock, left_out: int) -> Iterator[str]:
    yield from (_stepped(step, wall) for step in found.steps)
    if left_out:
        yield f"{left_out} of its clock exchanges contradict the others; they are left out"


def _stepped(step: Step, wall: WallClock | None) -> str:
    """Say that a clock jumped, and when by the host's own time of day."""
    at = ""
    if wall is not None:
        ns = step.mono_ns + wall.base_ns + round(wall.minus_mono_s(step.mono_ns) * NS)
        at = f" at {datetime.fromtimestamp(ns / NS, UTC):%Y-%m-%d %H:%M:%S} UTC by its own time"
    if step.of == "monotonic":
        how = "stood still for" if step.size_s < 0 else "jumped ahead by"
        return f"its monotonic clock {how} {abs(step.size_s):.3f} s{at} (did the machine sleep?)"
    return f"its time of day was set {'forward' if step.size_s > 0 else 'back'} by {abs(step.size_s):.3f} s{at}"
