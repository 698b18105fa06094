"""The timing log: what is written is read back, and what is lost is said, never guessed."""

from __future__ import annotations

import os
import threading
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flcommon.eventlog import EventLog, Moment, Reading, now, parse_line, processes, read_log
from flcommon.events import SCHEMA_VERSION, AnyEvent, Event, Failed, JobAccepted, Listening, TrialOpened
from flcommon.link import Way
from flcommon.logend import log_end

if TYPE_CHECKING:
    from pathlib import Path

KINDS = get_args(AnyEvent)
_json = st.recursive(
    st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
_floats = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = {
    int: st.integers(-(2**63), 2**64 - 1),
    float: _floats,
    str: st.text(),
    bool: st.booleans(),
    type(None): st.none(),
    msgspec.Raw: _json.map(msgspec.json.encode).map(msgspec.Raw),
}
WAYS = st.one_of(st.just(Way()), st.builds(Way, delay_ms=st.floats(1, 100), jitter_ms=st.floats(0, 1)))


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return anything that may stand in a field of this type."""
    if kind is Way:
        return WAYS
    if get_origin(kind) in {Union, UnionType}:
        return st.one_of(map(values, get_args(kind)))
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is dict:
        return st.dictionaries(*map(values, get_args(kind)), max_size=3)
    if get_origin(kind) is tuple:
        return st.lists(values(get_args(kind)[0]), max_size=3).map(tuple)
    return PLAIN[kind] if kind in PLAIN else built(kind)


def built(kind: type[msgspec.Struct]) -> st.SearchStrategy[msgspec.Struct]:
    """Return any struct of this kind."""
    return st.builds(kind, **{field.name: values(field.type) for field in msgspec.structs.fields(kind)})


EVENTS = st.one_of(built(kind) for kind in KINDS)


def write_all(path: Path, events: list[Event]) -> None:
    log = EventLog(path)
    for event in events:
        log.write(event)
    log.close()


def trials_read(reading: Reading) -> list[int]:
    return [event.trial for _, event in reading.events if isinstance(event, TrialOpened)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one file for all examples of a property."""
    return tmp_path_factory.mktemp("log") / "events.jsonl"


@given(events=st.lists(EVENTS, max_size=8))
def test_what_is_written_is_read_back(shared: Path, events: list[Event]) -> None:
    """All kinds of events, any text and any number come back as they were, numbered from 0 without gaps."""
    shared.unlink(missing_ok=True)
    write_all(shared, events)
    reading = read_log(shared)
    assert reading.problems == []
    assert [event for _, event in reading.events] == events
    assert [stamp.seq for stamp, _ in reading.events] == list(range(len(events)))
    assert {stamp.v for stamp, _ in reading.events} <= {SCHEMA_VERSION}


def test_an_event_carries_the_moment_it_happened_at(path: Path) -> None:
    """The moment given is the one written, on both clocks; without one it lies between before and after the write."""
    log = EventLog(path)
    earlier = Moment(mono_ns=7, wall_ns=9)
    assert log.write(TrialOpened(trial=0), earlier) == earlier
    before = now()
    told = log.write(TrialOpened(trial=1))
    after = now()
    log.close()
    (first, _), (second, _) = read_log(path).events
    assert (first.mono_ns, first.wall_ns) == earlier
    assert (second.mono_ns, second.wall_ns) == told
    assert before.mono_ns <= second.mono_ns <= after.mono_ns


def test_until_s_is_the_difference_of_the_monotonic_clock() -> None:
    """A wall clock that is set back changes no duration."""
    assert Moment(1_000_000_000, 50).until_s(Moment(3_500_000_000, 10)) == 2.5


def test_many_threads_leave_no_gap_and_no_mixed_line(path: Path) -> None:
    """Eight threads write at once: every event is there once, and the numbers follow the order of the lines."""
    log = EventLog(path)
    together = threading.Barrier(8)

    def write(thread: int) -> None:
        together.wait(10)
        for i in range(250):
            log.write(TrialOpened(trial=thread * 250 + i))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    log.close()
    reading = read_log(path)
    assert reading.problems == []
    assert [stamp.seq for stamp, _ in reading.events] == list(range(2000))
    found = trials_read(reading)
    assert sorted(found) == list(range(2000))
    for number in range(8):
        own = [trial for trial in found if trial // 250 == number]
        assert own == sorted(own)


@given(data=st.data())
def test_a_torn_last_line_costs_that_line_alone(shared: Path, data: st.DataObject) -> None:
    """Cut anywhere, as by a power failure: all whole lines are read, and the torn one is said to be torn."""
    shared.unlink(missing_ok=True)
    write_all(shared, [TrialOpened(trial=0), TrialOpened(trial=1), Failed(step="run", reason="é\n")])
    content = shared.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    cut = data.draw(st.integers(last, len(content)))
    shared.write_bytes(content[:cut])
    reading = read_log(shared)
    assert trials_read(reading) == [0, 1]
    whole = cut >= len(content) - 1
    assert len(reading.events) == (3 if whole else 2)
    assert reading.problems == ([] if whole or cut == last else ["events.jsonl:3: torn"])


def test_missing_lines_are_named(path: Path) -> None:
    """A gap in the numbers is a lost event; what is there is used all the same."""
    write_all(path, [TrialOpened(trial=i) for i in range(6)])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[1], lines[2], lines[5]]))
    reading = read_log(path)
    assert trials_read(reading) == [1, 2, 5]
    assert reading.problems == [
        "events.jsonl:1: events 0 to 0 are missing",
        "events.jsonl:3: events 3 to 4 are missing",
    ]


def test_a_line_that_is_there_twice_is_named(path: Path) -> None:
    """Numbers that go back are not a gap: the sentence says what stands where."""
    write_all(path, [TrialOpened(trial=0), TrialOpened(trial=1)])
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second + first)
    assert read_log(path).problems == ["events.jsonl:3: event 0 stands where event 2 should"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"v":1,"seq":1,"mono_ns":1,"wall_ns":1,"name":"from-the-future","trial":0}\n',
        b'{"v":1,"seq":1,"mono_ns":1,"wall_ns":1,"name":"trial-opened"}\n',
        b'{"v":1,"seq":1,"mono_ns":1,"wall_ns":1,"name":"listening","address":"\xff"}\n',
        b'{"v":1,"seq":1,"mono_ns":1,"wall_ns":1,"name":"trial-opened","trial":0,"new":' + b"[" * 100_000 + b"\n",
    ],
    ids=["unknown name", "missing field", "not UTF-8", "endless nesting"],
)
def test_an_unusable_line_is_one_problem(path: Path, line: bytes) -> None:
    """A line of another version, or a damaged one, is reported by its number, and reading goes on."""
    write_all(path, [TrialOpened(trial=i) for i in range(3)])
    first, _, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + last)
    reading = read_log(path)
    assert trials_read(reading) == [0, 2]
    assert reading.problems[0].startswith("events.jsonl:2: unusable (")
    with pytest.raises(msgspec.MsgspecError):
        parse_line(line)


def test_an_unknown_event_is_not_also_a_lost_one(path: Path) -> None:
    """The number of a line whose event is unknown is accounted for: one problem, not two."""
    write_all(path, [TrialOpened(trial=i) for i in range(3)])
    path.write_bytes(path.read_bytes().replace(b'"name":"trial-opened","trial":1', b'"name":"new-event","trial":1'))
    assert len(read_log(path).problems) == 1


def test_fields_of_a_newer_writer_are_ignored() -> None:
    """An event may gain fields without losing its readers."""
    line = b'{"v":1,"seq":4,"mono_ns":1,"wall_ns":2,"name":"listening","address":"a:1","more":[1]}\n'
    stamp, event = parse_line(line)
    assert stamp.seq == 4
    assert event == Listening(address="a:1")


@given(line=st.binary() | st.text().map(str.encode))
def test_garbage_is_one_kind_of_error(line: bytes) -> None:
    """Whatever a line holds, parse_line raises msgspec.MsgspecError and nothing else."""
    with pytest.raises(msgspec.MsgspecError):
        parse_line(line)


def job_of(pid: int) -> JobAccepted:
    return JobAccepted(role="client", host="a", campaign="c", pid=pid, versions={}, job=msgspec.Raw(b"{}"))


STORY = [job_of(1), TrialOpened(trial=0), Failed(step="run", reason='a "\\é\n'), TrialOpened(trial=1)]


def test_a_process_that_is_started_again_goes_on(path: Path) -> None:
    """Its events stand behind the earlier ones, and their numbers go on: no gap, and no number twice."""
    write_all(path, STORY)
    write_all(path, [job_of(2), TrialOpened(trial=2)])
    reading = read_log(path)
    assert reading.problems == []
    assert [stamp.seq for stamp, _ in reading.events] == list(range(6))
    first, second = processes(reading.events)
    assert [event for _, event in first] == STORY
    assert [event for _, event in second] == [job_of(2), TrialOpened(trial=2)]


@given(data=st.data())
def test_a_torn_tail_costs_its_line_alone(shared: Path, data: st.DataObject) -> None:
    """Cut anywhere, with or without garbage behind, as after a power failure: all whole lines stay, all new ones come.

    A line that lacks nothing but its end is whole. Numbers go on behind the last whole line.
    """
    shared.unlink(missing_ok=True)
    write_all(shared, STORY)
    content = shared.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    torn = content[:cut] + bytes(data.draw(st.integers(0, 5000)))
    shared.write_bytes(torn)
    whole = sum(end <= cut for end in line_ends(content)) if torn == content[:cut] else torn.count(b"\n")
    lost = torn.split(b"\n")[-1] if whole == torn.count(b"\n") else b""
    write_all(shared, [job_of(2), TrialOpened(trial=7)])
    assert shared.read_bytes().startswith(torn)
    reading = read_log(shared)
    assert [event for _, event in reading.events] == [*STORY[:whole], job_of(2), TrialOpened(trial=7)]
    assert [stamp.seq for stamp, _ in reading.events] == list(range(whole + 2))
    assert reading.problems == ([f"events.jsonl:{whole + 1}: torn"] if lost else [])


def line_ends(content: bytes) -> list[int]:
    """Return how many bytes hold each line, without its end, and all before."""
    return [place for place, byte in enumerate(content) if byte == ord("\n")]


@given(tail=st.binary(max_size=300))
def test_whatever_stands_at_the_end_a_log_goes_on(shared: Path, tail: bytes) -> None:
    """Garbage of any kind keeps no process from starting, and hides none of its events."""
    shared.unlink(missing_ok=True)
    write_all(shared, STORY)
    with shared.open("ab") as file:
        file.write(tail)
    write_all(shared, [job_of(2), TrialOpened(trial=7)])
    events = [event for _, event in read_log(shared).events]
    assert events[: len(STORY)] == STORY
    assert events[-2:] == [job_of(2), TrialOpened(trial=7)]


@pytest.mark.parametrize("size", [1000, 70_000, 1_500_000])
@pytest.mark.parametrize("torn", [False, True])
def test_the_last_number_is_found_behind_a_long_line(path: Path, size: int, *, torn: bool) -> None:
    """The first line holds the job and may be long: as long as it takes is looked back."""
    write_all(path, [TrialOpened(trial=0), Failed(step="run", reason="x" * size)])
    if torn:
        path.write_bytes(path.read_bytes()[:-4])
    with path.open("rb") as file:
        assert log_end(file.fileno()) == (0 if torn else 1, torn)


def test_an_empty_log_ends_before_its_first_event(path: Path) -> None:
    """Nothing is torn, and the first number is 0."""
    path.touch()
    with path.open("rb") as file:
        assert log_end(file.fileno()) == (-1, False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux's /dev/full")  # noqa: PTH110 - evaluated at import
def test_a_full_disk_is_an_error_and_not_a_silent_loss(tmp_path: Path) -> None:
    """A line that cannot be written raises OSError, and its number is not given to the next one: the gap shows."""
    path = tmp_path / "events.jsonl"
    path.symlink_to("/dev/full")
    log = EventLog(path)
    with pytest.raises(OSError, match="No space left"):
        log.write(TrialOpened(trial=0))
    real = os.open(tmp_path / "real.jsonl", os.O_WRONLY | os.O_CREAT, 0o644)
    os.dup2(real, log._fd)
    os.close(real)
    log.write(TrialOpened(trial=1))
    log.close()
    assert read_log(tmp_path / "real.jsonl").problems == ["real.jsonl:1: events 0 to 0 are missing"]


def test_a_closed_log_takes_no_more(path: Path) -> None:
    """Writing after close is an error."""
    log = EventLog(path)
    log.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        log.write(TrialOpened(trial=0))
