"""Conversations about clocks with real OpenSSH servers: what they measure, and how they end."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import psutil
import pytest

from deploy import clocks
from deploy.clockline import CLOCKS_FILE, ClockLine
from deploy.clocks import Book, Conversation
from deploy.facts import Facts
from deploy.pulse import Pace
from deploy.remote import ssh
from deploy.worker import Worker
from flcommon.lease import CONTROL_FILE, is_held

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Bench, Said

    from deploy.remote.ssh import SshRemote

CODE = Path(__file__).parents[2]
QUICK = Pace(burst=100, quick_s=0.0)


class Remembered(Book):
    """A book that can be read while it is written."""

    def __init__(self, path: Path, note: list[str]) -> None:
        super().__init__(path, note.append)
        self.lines: list[ClockLine] = []
        self._more = threading.Condition()

    def add(self, line: ClockLine) -> None:
        super().add(line)
        with self._more:
            self.lines.append(line)
            self._more.notify_all()

    def until(self, count: int) -> None:
        """Wait until so many exchanges are there."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.lines) >= count, 20)


@dataclass(frozen=True)
class Desk:
    """Where a test holds its conversations."""

    book: Remembered
    notes: list[str]
    place: Path
    talks: list[Conversation] = field(default_factory=list)

    def talk(self, remote: SshRemote, pace: Pace = QUICK) -> Conversation:
        worker = Worker(remote, _facts(self.place), "flclient", str(CODE), "c")
        Path(worker.directory).mkdir(parents=True, exist_ok=True)
        self.talks.append(Conversation(worker, self.book, pace))
        return self.talks[-1]

    @property
    def control(self) -> Path:
        return self.place / "campaigns" / "c" / "pi" / CONTROL_FILE

    def conversing(self) -> list[psutil.Process]:
        """The processes on the host's side of any conversation of this test."""
        return [process for process in psutil.process_iter(["cmdline"]) if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        words = process.info["cmdline"] or []
        return "converse" in words and f"{self.control.parent}" in words


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    notes: list[str] = []
    book = Remembered(tmp_path / CLOCKS_FILE, notes)
    desk = Desk(book, notes, tmp_path)
    yield desk
    for talk in desk.talks:
        talk.end(leave=False)
    book.close()
    _, alive = psutil.wait_procs(desk.conversing(), timeout=10)
    assert not alive, "a conversation's process stays on the host"


def test_a_host_is_as_late_as_itself(bench: Bench, desk: Desk) -> None:
    """With one machine at both ends the offset is 0: every exchange's bounds hold it, and the best are narrow."""
    with ssh.connect(bench.new_host()) as remote:
        talk = desk.talk(remote)
        talk.begin()
        desk.book.until(100)
        talk.end(leave=False)
        talk.join(10)
    for line in desk.book.lines:
        assert line.sent_mono_ns <= line.received_mono_ns <= line.answered_mono_ns <= line.back_mono_ns
        assert line.sent_wall_ns <= line.received_wall_ns <= line.answered_wall_ns <= line.back_wall_ns
    best = min(desk.book.lines, key=_rtt_ns)
    assert abs(_offset_ns(best)) <= _rtt_ns(best) / 2
    assert _rtt_ns(best) < 5e6
    assert desk.notes == []


def test_a_slow_way_is_measured_as_such(bench: Bench, desk: Desk) -> None:
    """20 ms each way: every exchange takes 40 ms at least, the best hardly more, and the offset is 0 all the same."""
    with bench.relayed(one_way_s=0.02) as (host, _), ssh.connect(host) as remote:
        talk = desk.talk(remote, Pace(burst=10, quick_s=0.0))
        talk.begin()
        desk.book.until(10)
        talk.end(leave=False)
        talk.join(10)
    best = min(desk.book.lines, key=_rtt_ns)
    assert 40e6 <= _rtt_ns(best) < 50e6
    assert abs(_offset_ns(best)) < 5e6


def test_a_conversation_keeps_the_lease_and_can_leave_it(bench: Bench, desk: Desk) -> None:
    """While it goes on, the controller is there; its last word holds without it."""
    with ssh.connect(bench.new_host()) as remote:
        talk = desk.talk(remote)
        talk.begin()
        desk.book.until(2)
        assert is_held(desk.control)
        assert not is_held(desk.control, lease_s=0.0)
        talk.end(leave=True)
        talk.join(10)
        assert talk.told
    assert is_held(desk.control, lease_s=0.0)


def test_nothing_says_that_a_controller_is_there_once_it_is_gone(bench: Bench, desk: Desk) -> None:
    """The connection is closed without a word: the host's end goes, and the lease runs out."""
    with ssh.connect(bench.new_host()) as remote:
        talk = desk.talk(remote)
        talk.begin()
        desk.book.until(2)
        (there,) = desk.conversing()
        remote.close()
        psutil.wait_procs([there], timeout=10)
        last = desk.control.read_text()
        assert not there.is_running()
        talk.end(leave=True)
        talk.join(10)
        assert not talk.told
    assert desk.control.read_text() == last != "left"


def test_a_lost_connection_is_taken_up_again(bench: Bench, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a burst, and nothing is noted: other users of the connection say that it was lost."""
    monkeypatch.setattr(clocks, "_FIRST_WAIT_S", 0.01)
    with ssh.connect(bench.new_host()) as remote:
        talk = desk.talk(remote)
        talk.begin()
        for _ in range(3):
            desk.book.until(len(desk.book.lines) + 30)
            bench.kill_connections()
        desk.book.until(len(desk.book.lines) + 30)
        talk.end(leave=False)
        talk.join(10)
    assert desk.notes == []


def test_a_host_without_a_session_to_spare_is_noted(bench: Bench, desk: Desk, said: Said) -> None:
    """MaxSessions 1, taken by a watch: said once, and the watch goes on."""
    noted = threading.Event()
    with ssh.connect(bench.new_host(MaxSessions=1)) as remote:
        talk = desk.talk(remote)

        def watch(_line: str) -> None:
            talk.begin()
            noted.wait(20)
            talk.end(leave=True)
            talk.join(10)
            said.say(None)

        desk.book.note = lambda text: (desk.notes.append(text), noted.set())
        said.say(b"on\n")
        assert remote.run(["cat"], step="watch", stdin=said, on_line=watch) == ""
        assert remote.read(["echo", "again"], step="look") == "again\n"
    assert not talk.told
    (note,) = desk.notes
    assert note.startswith("pi: clocks: the host refuses another session")


def test_thousands_of_exchanges_leave_nothing_open(bench: Bench, desk: Desk) -> None:
    """Descriptors and threads are those of before; the last tenth of exchanges is as quick as the first."""
    with ssh.connect(bench.new_host()) as remote:
        remote.read(["true"], step="look")
        files, threads = _open_files(), threading.active_count()
        talk = desk.talk(remote, Pace(burst=2000, quick_s=0.0))
        talk.begin()
        desk.book.until(2000)
        talk.end(leave=False)
        talk.join(10)
        assert (_open_files(), threading.active_count()) == (files, threads)
    first, last = ([_rtt_ns(line) for line in part] for part in (desk.book.lines[:200], desk.book.lines[-200:]))
    assert median(last) < 3 * median(first)


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _rtt_ns(line: ClockLine) -> int:
    return line.back_mono_ns - line.sent_mono_ns - (line.answered_mono_ns - line.received_mono_ns)


def _offset_ns(line: ClockLine) -> float:
    there, back = line.received_wall_ns - line.sent_wall_ns, line.answered_wall_ns - line.back_wall_ns
    return (there + back) / 2


def _facts(workdir: Path) -> Facts:
    return Facts(
        home=str(workdir),
        user="pi",
        hostname="pi",
        workdir=str(workdir),
        python=sys.executable,
        python_version="3.11",
        python_bits=64,
        system="Linux",
        platform="Linux",
        machine="x86_64",
        cpu="",
        cpus=None,
        memory_mb=None,
        disk_free_mb=1000,
        writable=True,
        packages={"msgspec": "1"},
        code=(),
        wall_ns=0,
    )
