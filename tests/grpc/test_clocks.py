"""Clocks that are wrong by a known amount, in real processes: the analysis of their logs recovers the truth.

All processes share the kernel's clocks here, so what a shifted clock showed is known for each moment.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.reading.messages import message_rows
from deploy.manifest import SCHEMA_VERSION, HostRecord, Manifest, PlannedTrial
from flcommon.eventlog import read_log
from flcommon.events import Listening, MessageReceived, ReplySent
from flcommon.job import AppRef, ClientJob, ClientTrial, ServerJob, ServerTrial, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.analysis.reading.messages import MessageRow
    from deploy.analysis.reading.rows import Dataset

APP = AppRef(client="steady:client", server="steady:server")
APPS = Path(__file__).parent / "apps"
PATH = os.pathsep.join([str(APPS), *sys.path])
NS = 1_000_000_000
BUSY = Transport(clock_every_s=0.01)


class DelayedPath:
    """A path to the server that takes a known time in each direction: bytes are held, in order, and nothing else."""

    def __init__(self, server: str, down_s: float, up_s: float, stack: ExitStack) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._delays_s = (up_s, down_s)
        self._stack = stack
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._run(self._accept)
        stack.callback(self._listener.shutdown, socket.SHUT_RDWR)

    def _run(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args)
        thread.start()
        self._stack.callback(thread.join)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for (source, sink), delay_s in zip(((client, server), (server, client)), self._delays_s, strict=True):
                    held: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                    self._run(_read, source, held, delay_s)
                    self._run(_write, sink, held)


def _read(source: socket.socket, held: queue.SimpleQueue[tuple[float, bytes]], delay_s: float) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            held.put((time.monotonic() + delay_s, data))
    held.put((time.monotonic() + delay_s, b""))


def _write(sink: socket.socket, held: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    with closing(sink), suppress(OSError):
        while True:
            due_s, data = held.get()
            time.sleep(max(0.0, due_s - time.monotonic()))
            if not data:
                break
            sink.sendall(data)
        sink.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Shift:
    """What a client's clocks are wrong by, from the moment `began_s` of the kernel's monotonic clock on."""

    began_s: float
    wall_s: float = 0.0
    wall_ppm: float = 0.0
    mono_s: float = 0.0
    mono_ppm: float = 0.0

    def environment(self, library: Path) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(library),
            "CLOCK_BEGAN_S": f"{self.began_s:.9f}",
            "CLOCK_OFFSET_S": str(self.wall_s),
            "CLOCK_DRIFT_PPM": str(self.wall_ppm),
            "CLOCK_MONO_OFFSET_S": str(self.mono_s),
            "CLOCK_MONO_DRIFT_PPM": str(self.mono_ppm),
        }

    def kernel_ns(self, shown_ns: int) -> int:
        """Return the kernel's monotonic clock when the client's showed this."""
        since_ns = shown_ns - self.began_s * NS
        return round(self.began_s * NS + (since_ns - self.mono_s * NS) / (1 + self.mono_ppm / 1e6))

    def wall_offset_s(self, shown_ns: int) -> float:
        since_s = self.kernel_ns(shown_ns) / NS - self.began_s
        return self.mono_s + self.wall_s + since_s * (self.mono_ppm + self.wall_ppm) / 1e6


@pytest.fixture
def measured(make_campaign: Callable, clock: Path) -> Callable[..., Dataset]:
    """Return a function that runs a campaign of one client in a place, its clocks shifted, and reads it back.

    `via` gives the client another address of the server.
    """

    @contextmanager
    def direct(address: str) -> Iterator[str]:
        yield address

    def measure(place: Path, shift: Shift, via: Callable = direct, **config: float) -> Dataset:
        trial = {"index": 0, "seed": 7, "run_config": {"rounds": 6, "compute-s": 1.0, "pause-s": 0.0} | config}
        common = {"campaign": "c1", "app": APP, "transport": BUSY}
        with make_campaign(_raw(place)) as campaign:
            rounds = (ServerTrial(**trial, rounds=int(trial["run_config"]["rounds"])),)
            server = ServerJob(**common, host="server", listen="127.0.0.1:0", clients=("a",), trials=rounds)
            campaign.start("flserver", server, PYTHONPATH=PATH)
            with via(campaign.wait_for("server", Listening).address) as address:
                trials = (ClientTrial(**trial, schedule=0),)
                job = ClientJob(**common, host="a", server_address=address, delay_seed=1, node_config={}, trials=trials)
                campaign.start("flclient", job, PYTHONPATH=PATH, **shift.environment(clock))
                assert campaign.story().statuses == {"server": 0, "a": 0}
        (place / "manifest.json").write_bytes(msgspec.json.encode(_manifest(trial)))
        return read_dataset(place)

    return measure


def _raw(place: Path) -> Path:
    (place / "raw").mkdir(parents=True)
    return place / "raw"


def _manifest(trial: dict[str, Any]) -> Manifest:
    planned = PlannedTrial(**trial, condition=0, repeat=0, schedule=0, rounds=6, settings={})
    return Manifest(
        schema=SCHEMA_VERSION, campaign="c1", lab="l", playbook="p", app="steady", created_utc="2025-11-25T00:00:00Z",
        status="complete", error=None, versions={}, code_digest="", inventory={}, playbook_resolved={},
        hosts={"server": HostRecord(role="server", facts={}), "a": HostRecord(role="client", facts={})},
        trials=(planned,), phases_s={},
    )  # fmt: skip


def check_moments(dataset: Dataset, place: Path, shift: Shift) -> list[float]:
    """Every moment of a client's message is where it was, within its uncertainty; return the errors in seconds."""
    rows = {(row.message, row.direction): row for row in message_rows(dataset.messages)}
    errors = []
    for stamp, event in read_log(place / "raw" / "a" / "events.jsonl").events:
        if isinstance(event, MessageReceived | ReplySent):
            row: MessageRow = rows[event.message, "down" if isinstance(event, MessageReceived) else "up"]
            found_ns = row.received_ns if row.direction == "down" else row.sent_ns
            assert found_ns is not None
            assert row.uncertainty_s is not None
            error_s = (found_ns - shift.kernel_ns(stamp.mono_ns)) / NS
            assert abs(error_s) <= row.uncertainty_s
            errors.append(error_s)
    assert len(errors) == 12
    return errors


def is_found(dataset: Dataset, place: Path, shift: Shift) -> bool:
    """Whether offset and drift of both clocks are known to 1 ms and 10 ppm; within what is stated they always are."""
    (found,) = dataset.clocks
    errors = check_moments(dataset, place, shift)
    stamps = [stamp for stamp, _ in read_log(place / "raw" / "a" / "events.jsonl").events]
    ends = zip(found.wall_offset_s, (stamps[0], stamps[-1]), strict=True)
    drifts = ((found.mono_drift_ppm, shift.mono_ppm), (found.wall_drift_ppm, shift.mono_ppm + shift.wall_ppm))
    return (
        max(map(abs, errors)) < 0.001
        and all(ppm is not None and abs(ppm - true) <= 10 for ppm, true in drifts)
        and all(abs(offset_s - shift.wall_offset_s(stamp.mono_ns)) <= 0.0015 for offset_s, stamp in ends)
    )


def test_offset_and_drift_on_loopback(measured: Callable, tmp_path: Path) -> None:
    """3.5 s ahead, 200 ppm too fast, and a monotonic clock that drifts as well: to 1 ms and 10 ppm.

    In the least disturbed of three campaigns of ten seconds: in each, the truth is within what is stated.
    """

    def play(number: int) -> bool:
        place = tmp_path / f"{number}"
        shift = Shift(time.monotonic(), wall_s=3.5, wall_ppm=200, mono_s=0.02, mono_ppm=100)
        return is_found(measured(place, shift, **{"payload-bytes": 1000, "compute-s": 1.5}), place, shift)

    assert any(play(number) for number in range(3))


@pytest.mark.parametrize(("down_s", "up_s"), [(0.04, 0.04), (0.0, 0.04)])
def test_through_a_slow_path(measured: Callable, tmp_path: Path, down_s: float, up_s: float) -> None:
    """40 ms, both ways or in one alone: the truth is within the stated uncertainty, which is half of the RTT."""
    shift = Shift(time.monotonic(), wall_s=-3.5, mono_s=0.02, mono_ppm=-200)

    @contextmanager
    def via(address: str) -> Iterator[str]:
        with ExitStack() as stack:
            yield DelayedPath(address, down_s, up_s, stack).address

    dataset = measured(tmp_path, shift, via, **{"payload-bytes": 1000, "compute-s": 0.5})
    check_moments(dataset, tmp_path, shift)
    (found,) = dataset.clocks
    assert found.uncertainty_s == pytest.approx((down_s + up_s) / 2, abs=0.002)
