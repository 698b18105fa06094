"""Logs that are damaged, doubled, cut off or newer than we are: what is left is read, and what is not is said."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from deploy.analysis.reading import logs, parsing
from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.reading.kinds import HOT, name_of
from deploy.analysis.reading.logs import read_logs
from deploy.errors import DeployError
from flcommon.eventlog import EventLog, Moment, read_log
from flcommon.events import JobAccepted, TrialOpened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

    from deploy.analysis.reading.logs import Logs


@pytest.fixture
def fake(tmp_path: Path, kit: ModuleType) -> object:
    """A run of two rounds, with three clients."""
    made = kit.FakeRun(tmp_path, [kit.FakeTrial(kit.plan(0), [kit.simple_round(1.0, 0.5)] * 2)])
    made.write()
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, kit: ModuleType) -> tuple[Path, bytes, dict]:
    """The same once for all examples of a property: its directory, a client's log, and what that client did."""
    place = tmp_path_factory.mktemp("cut")
    made = kit.FakeRun(place, [kit.FakeTrial(kit.plan(0), [kit.simple_round(1.0, 0.5)] * 2)])
    run = made.write()
    tasks = {row["message"]: row for row in read_dataset(run).tasks.filter(client="pc-c").iter_rows(named=True)}
    return run, made.log("pc-c").read_bytes(), tasks


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def untold(line: bytes, name: bytes = b"warp-drive") -> bytes:
    """Return a line of an event that only a newer version knows."""
    head, _, _ = line.partition(b'"name":')
    return head + b'"name":"' + name + b'","factor":9}\n'


def torn_in_the_middle(lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], lines[3][:40] + bytes(30) + b"\n", *lines[4:]]


DAMAGES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], tuple[str, ...]]] = {
    "torn last line": (lambda lines: [*lines[:-1], lines[-1][:-9]], ("events.jsonl:7: torn",)),
    "torn in the middle": (
        torn_in_the_middle,
        (
            "events.jsonl:4: unusable (JSON is malformed: invalid character (byte 40))",
            "events.jsonl:5: events 3 to 3 are missing",
        ),
    ),
    "a gap": (lambda lines: [*lines[:2], *lines[4:]], ("events.jsonl:3: events 2 to 3 are missing",)),
    "pulled twice": (
        lambda lines: lines * 2,
        ("events.jsonl: 7 events stand in it twice, as after two pulls: taken once",),
    ),
    "pieces that overlap": (
        lambda lines: [*lines[:5], *lines[3:]],
        ("events.jsonl: 2 events stand in it twice, as after two pulls: taken once",),
    ),
    "a newer version": (
        lambda lines: [*lines[:2], untold(lines[2]), *lines[3:5], untold(lines[5]), lines[6]],
        ("events.jsonl: 2 events that this version does not know: warp-drive",),
    ),
    "empty": (lambda _: [], ("events.jsonl is empty",)),
    "not text": (
        lambda lines: [*lines[:6], lines[6].replace(b"pc-c", b"\xff\xfe--")],
        ("events.jsonl:7: unusable ('utf-8' codec can't decode byte 0xff in position 5: invalid start byte)",),
    ),
    "numbers without end": (
        lambda lines: [*lines[:6], lines[6].replace(b'"trial":0', b'"trial":' + b"9" * 40)],
        ("events.jsonl:7: unusable (Expected `int` <= 4611686018427387904 - at `$.trial`)",),
    ),
    "garbage": (
        lambda lines: [*lines, *[b"?\n"] * 100],
        (
            *(f"events.jsonl:{n}: unusable (JSON is malformed: invalid character (byte 0))" for n in range(8, 13)),
            "events.jsonl: 95 more lines are unusable or out of order",
        ),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_said_in_a_sentence_and_the_rest_is_read(fake, damage: str) -> None:
    """The others' logs are whole, and the server's tells of every instruction."""
    change, problems = DAMAGES[damage]
    path = fake.log("pc-c")
    path.write_bytes(b"".join(change(lines_of(path))))
    dataset = read_dataset(fake.folder)
    assert dataset.problems == tuple(f"pc-c: {problem}" for problem in problems)
    assert dataset.trials[0].total_s == 3.0
    assert dataset.tasks.height == 6
    assert dataset.works.filter(client="pi4-a")["compute_s"].to_list() == [0.5, 0.5]


@pytest.mark.parametrize("damage", ["pulled twice", "pieces that overlap"])
def test_what_was_pulled_twice_is_taken_once(fake, damage: str) -> None:
    """Neither a process more, nor an event: every frame is that of the whole log."""
    before = read_dataset(fake.folder)
    for host in ("server", "pc-c"):
        path = fake.log(host)
        path.write_bytes(b"".join(DAMAGES[damage][0](lines_of(path))))
    after = read_dataset(fake.folder)
    for name in ("tasks", "messages", "works", "rounds", "phases", "offsets"):
        assert_frame_equal(getattr(before, name), getattr(after, name))
    assert after.processes == before.processes
    assert after.trials == before.trials


def test_a_manifest_that_lists_hosts_without_logs_is_enough(fake) -> None:
    """Whoever has lost raw/ still gets the plan, and a sentence for each host."""
    for host in ("server", *fake.clients):
        fake.log(host).unlink()
        fake.log(host).parent.rmdir()
    (fake.folder / "raw").rmdir()
    dataset = read_dataset(fake.folder)
    assert dataset.problems == tuple(f"{host}: events.jsonl is missing" for host in ("server", *fake.clients))
    assert [trial.status for trial in dataset.trials] == ["not started"]


def test_a_line_that_a_restart_closed_is_torn(fake) -> None:
    """A power failure cuts a line off; the process that goes on ends it, and its job line says that it did."""
    path = fake.log("pc-c")
    path.write_bytes(path.read_bytes()[:-9])
    log = EventLog(path)
    job = JobAccepted(role="client", host="pc-c", campaign="c-1", pid=8, versions={}, job=msgspec.Raw(b"{}"))
    log.write(job, Moment(5, 5))
    log.close()
    assert read_dataset(fake.folder).problems == (
        "pc-c: events.jsonl:7: torn",
        "pc-c: its process was started again",
    )


@given(st.data())
@settings(max_examples=25)
def test_a_log_cut_at_any_byte_says_what_its_beginning_says(whole, data: st.DataObject) -> None:
    """Whatever it still tells agrees with the whole log, and nothing is told that stands behind the cut."""
    run, log, tasks = whole
    cut = data.draw(st.integers(0, len(log)))
    (run / "raw" / "pc-c" / "events.jsonl").write_bytes(log[:cut])
    dataset = read_dataset(run)
    for row in dataset.tasks.filter(client="pc-c").iter_rows(named=True):
        known = tasks[row["message"]]
        assert all(value is None or value == known[name] or name == "flags" for name, value in row.items())
        if row["compute_s"] is not None:
            assert b'"compute-ended"' in log[:cut]
    whole_lines = log[:cut].count(b"\n") + log.startswith(b"\n", cut)  # the end of a line may be all that is missing
    told = read_logs({"pc-c": run / "raw" / "pc-c" / "events.jsonl"})
    assert sum(len(process.mono_ns) for process in told.processes) == whole_lines


def spread(path: Path, alone_bytes: int, monkeypatch: pytest.MonkeyPatch) -> Logs:
    """Read all logs below a directory, by one process or by two, in small pieces."""
    monkeypatch.setattr(parsing, "PIECE_BYTES", 1000)
    monkeypatch.setattr(logs, "PIECE_BYTES", 1000)
    monkeypatch.setattr(logs, "_processors", lambda: 2)
    return read_logs({entry.name: entry / "events.jsonl" for entry in sorted(path.iterdir())}, alone_bytes)


def test_several_processes_read_what_one_does(fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames, events, stamps and problems, however a log is cut into pieces, damage included."""
    for host, damage in (("pi4-a", "torn in the middle"), ("pi4-b", "pulled twice"), ("pc-c", "a newer version")):
        path = fake.log(host)
        path.write_bytes(b"".join(DAMAGES[damage][0](lines_of(path))))
    alone = spread(fake.folder / "raw", 1 << 30, monkeypatch)
    shared = spread(fake.folder / "raw", 0, monkeypatch)
    assert shared.problems == alone.problems
    assert shared.frames.keys() == alone.frames.keys()
    for name, frame in alone.frames.items():
        assert_frame_equal(shared.frames[name], frame)
    for one, other in zip(shared.processes, alone.processes, strict=True):
        assert (one.host, one.number, one.told) == (other.host, other.number, other.told)
        assert one.mono_ns.tolist() == other.mono_ns.tolist()


def test_a_reader_that_dies_is_an_error_of_ours(fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when memory runs out; its pieces must not be missing in silence."""
    monkeypatch.setattr("deploy.analysis.reading.worker.sys.executable", "/bin/false")
    with pytest.raises(DeployError, match="has died"):
        spread(fake.folder / "raw", 0, monkeypatch)


def test_frames_hold_what_the_reader_of_events_holds(fake) -> None:
    """Every hot event of `read_log` is a row, with its moment; every other one is told by its process."""
    paths = {host: fake.log(host) for host in ("server", *fake.clients)}
    told = read_logs(paths)
    events = [(host, *pair) for host, path in paths.items() for pair in read_log(path).events]
    for kind in HOT:
        own = [(host, stamp.mono_ns) for host, stamp, event in events if isinstance(event, kind)]
        frame = told.of(kind)
        hosts = [told.processes[process].host for process in frame["process"]]
        assert list(zip(hosts, frame["mono_ns"], strict=True)) == own, name_of(kind)
    cold = [(host, stamp, event) for host, stamp, event in events if not isinstance(event, tuple(HOT))]
    assert [(host, *pair) for host in paths for pair in told.told(host)] == cold


def test_a_log_longer_than_a_piece_keeps_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is in one piece, and problems name it by its number in the file."""
    path = tmp_path / "a" / "events.jsonl"
    path.parent.mkdir()
    log = EventLog(path)
    log.write_all([(TrialOpened(trial=number), Moment(number, number)) for number in range(200)])
    log.close()
    lines = lines_of(path)
    lines[150] = b"{torn\n"
    path.write_bytes(b"".join(lines))
    for alone_bytes in (0, 1 << 30):
        told = spread(tmp_path, alone_bytes, monkeypatch)
        assert [event.trial for _, event in told.told("a")] == [*range(150), *range(151, 200)]
        torn, gap = told.problems["a"]
        assert torn.startswith("events.jsonl:151: unusable")
        assert gap == "events.jsonl:152: events 150 to 150 are missing"


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    """Whatever reads beside us is gone afterwards."""
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
