"""Files pulled from a host that may send anything: only new bytes, verified, and never elsewhere than asked for."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import pull as pulling
from deploy.arrival import PIECE_BYTES, Arrival
from deploy.errors import ConnectionLost, HostError
from deploy.pull import PulledFile, Wanted, pull
from deploy.remote.fake import FakeRemote
from deploy.remote.retry import RETRIES

LOGS = Wanted(("events", "job"), ("stdout",))


@dataclass
class Wire:
    """This machine as a host: what its commands send is counted, and cut where a test says so."""

    host: str = "here"
    cut_after: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def get(self, argv, sink, *, step):
        left = self.cut_after.pop(0) if self.cut_after else sys.maxsize
        self.sent.append(0)
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            while data := process.stdout.read(min(32_000, left)):
                self.sent[-1] += len(data)
                left -= len(data)
                sink.write(data)
            if left == 0:
                process.kill()
                raise ConnectionLost(self.host, step, "the connection was lost")
        assert process.returncode == 0
        return self.sent[-1]


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def logs(tmp_path):
    """Give the directory on the host."""
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


@pytest.fixture
def raw(tmp_path):
    """Give the directory here."""
    return tmp_path / "run" / "raw"


def fetch(wire, logs, raw, wanted=LOGS):
    return pull(wire, sys.executable, str(logs), raw, wanted)


def more(wanted=LOGS):
    return Wanted(wanted.whole, wanted.ends, final=False)


def held(raw):
    return {path.name: path.read_bytes() for path in raw.iterdir()} if raw.exists() else {}


def test_files_come_byte_for_byte(wire, logs, raw):
    """Those that exist, whatever their size beside the pieces', with no draft left."""
    files = {"events": os.urandom(3 * PIECE_BYTES), "job": b"", "stdout": os.urandom(PIECE_BYTES + 1)}
    for name, content in files.items():
        (logs / name).write_bytes(content)
    assert fetch(wire, logs, raw) == {name: PulledFile(len(content), 0) for name, content in files.items()}
    assert held(raw) == files


def test_what_is_missing_is_left_out(wire, logs, raw):
    """A process that never started has left nothing, and that is no error."""
    assert fetch(wire, logs, raw) == {}
    assert fetch(wire, logs / "gone", raw) == {}
    assert held(raw) == {}


@pytest.mark.parametrize("final", [True, False])
def test_only_new_bytes_come(wire, logs, raw, final):
    """A log that grew between two pulls: what is here is not sent again, and nothing new is a few bytes."""
    wanted = LOGS if final else more()
    (logs / "events").write_bytes(old := os.urandom(500_000))
    fetch(wire, logs, raw, wanted)
    with (logs / "events").open("ab") as file:
        file.write(new := os.urandom(7000))
    fetch(wire, logs, raw, wanted)
    assert held(raw) == {"events": old + new}
    fetch(wire, logs, raw, wanted)
    assert held(raw) == {"events": old + new}
    assert wire.sent[0] > 500_000
    assert 7000 < wire.sent[1] < 7100
    assert wire.sent[2] < 100


def test_the_last_pull_checks_the_whole_copy(wire, logs, raw):
    """What is here is not the beginning of the host's file, of the same size or longer: that file comes again."""
    for content in (b"x" * 300_000, b"x" * 200_000, b"x" * 400_000):
        (logs / "events").write_bytes(b"y" * 300_000)
        (logs / "job").write_bytes(b"job")
        raw.mkdir(parents=True, exist_ok=True)
        (raw / "events").write_bytes(content)
        fetch(wire, logs, raw)
        assert held(raw) == {"events": b"y" * 300_000, "job": b"job"}
    assert wire.sent[1] > 300_000


def test_a_pull_in_between_does_not_read_it_all_again(wire, logs, raw):
    """Only the last one hashes what is here: in between, an old difference is not seen."""
    raw.mkdir(parents=True)
    (raw / "events").write_bytes(b"xxx")
    (logs / "events").write_bytes(b"yyyzz")
    fetch(wire, logs, raw, more())
    assert held(raw) == {"events": b"xxxzz"}
    fetch(wire, logs, raw)
    assert held(raw) == {"events": b"yyyzz"}


def test_a_file_that_became_shorter_comes_again(wire, logs, raw):
    """The host began it anew."""
    (logs / "events").write_bytes(b"x" * 1000)
    fetch(wire, logs, raw, more())
    (logs / "events").write_bytes(b"y" * 10)
    fetch(wire, logs, raw, more())
    assert held(raw) == {"events": b"y" * 10}


def test_only_the_end_of_a_huge_output_comes(wire, logs, raw, monkeypatch):
    """The last bytes, whatever is here already; what was left out is told; in between, nothing of it comes."""
    monkeypatch.setattr(pulling, "END_BYTES", 300_000)
    (logs / "stdout").write_bytes(first := os.urandom(200_000))
    assert fetch(wire, logs, raw, more()) == {"stdout": PulledFile(200_000, 0)}
    with (logs / "stdout").open("ab") as file:
        file.write(second := os.urandom(1_000_000))
    assert fetch(wire, logs, raw, more()) == {"stdout": PulledFile(1_200_000, 1_000_000)}
    assert held(raw) == {"stdout": first}
    assert wire.sent[-1] < 100
    for _ in range(2):
        assert fetch(wire, logs, raw) == {"stdout": PulledFile(1_200_000, 900_000)}
        assert held(raw) == {"stdout": second[-300_000:]}


def test_an_end_is_never_put_behind_a_beginning(wire, logs, raw, monkeypatch):
    """Even where the copy here is just as long as what is left out."""
    monkeypatch.setattr(pulling, "END_BYTES", 1000)
    (logs / "stdout").write_bytes(b"a" * 1000)
    fetch(wire, logs, raw)
    (logs / "stdout").write_bytes(b"a" * 1000 + b"b" * 1000)
    fetch(wire, logs, raw)
    assert held(raw) == {"stdout": b"b" * 1000}


def test_memory_stays_flat(wire, logs, raw):
    """A gigabyte of output (a sparse file): the last 16 MiB come, and only pieces of them are in memory."""
    with (logs / "stdout").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"the end")
    tracemalloc.start()
    try:
        told = fetch(wire, logs, raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert told == {"stdout": PulledFile((1 << 30) + 7, (1 << 30) + 7 - (16 << 20))}
    assert (raw / "stdout").stat().st_size == 16 << 20
    assert (raw / "stdout").read_bytes().endswith(b"\0the end")
    assert peak < 8 * PIECE_BYTES


# --- broken pulls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("final", [True, False])
def test_a_pull_that_is_cut_goes_on_where_it_was(wire, logs, raw, final):
    """Twice in the middle of a file: what had come and was verified is not sent again."""
    (logs / "events").write_bytes(content := os.urandom(20 * PIECE_BYTES))
    (logs / "job").write_bytes(b"job")
    wire.cut_after = [7 * PIECE_BYTES, 8 * PIECE_BYTES]
    fetch(wire, logs, raw, LOGS if final else more())
    assert held(raw) == {"events": content, "job": b"job"}
    assert len(wire.sent) == 3
    assert sum(wire.sent) < len(content) + 2 * PIECE_BYTES + 5000


def test_a_pull_that_is_cut_for_good_leaves_verified_bytes(wire, logs, raw):
    """What was here before stays, with whole pieces after it; no draft, and nothing of the rest."""
    (logs / "events").write_bytes(content := os.urandom(20 * PIECE_BYTES))
    raw.mkdir(parents=True)
    (raw / "events").write_bytes(content[:1000])
    wire.cut_after = [int(1.5 * PIECE_BYTES)] * (1 + RETRIES)
    with pytest.raises(ConnectionLost):
        fetch(wire, logs, raw)
    assert held(raw) == {"events": content[: 1000 + (1 + RETRIES) * PIECE_BYTES]}


def test_a_cut_copy_that_was_wrong_stays_until_the_right_one_is_whole(wire, logs, raw):
    """The right one is written beside it."""
    (logs / "events").write_bytes(content := os.urandom(4 * PIECE_BYTES))
    raw.mkdir(parents=True)
    (raw / "events").write_bytes(b"wrong")
    wire.cut_after = [sys.maxsize] + [2 * PIECE_BYTES] * (1 + RETRIES)
    with pytest.raises(ConnectionLost):
        fetch(wire, logs, raw)
    assert held(raw) == {"events": b"wrong"}
    fetch(wire, logs, raw)
    assert held(raw) == {"events": content}


def test_a_file_that_shrinks_while_it_is_sent_is_damaged(wire, logs, raw, monkeypatch):
    """What was announced does not come: the sum tells, and nothing but verified bytes is kept."""
    (logs / "events").write_bytes(b"x" * (40 * PIECE_BYTES))
    (logs / "job").write_bytes(b"job")
    take = Arrival.write

    def cut_at_once(self, data):
        os.truncate(logs / "events", 0)  # the sender waits here for room in its pipe
        return take(self, data)

    monkeypatch.setattr(Arrival, "write", cut_at_once)
    fetch(wire, logs, raw)
    assert held(raw) == {"events": b"", "job": b"job"}
    assert len(wire.sent) == 2


# --- hosts that send anything ----------------------------------------------------------------------------------------


def table(*entries):
    return b"%d\n" % len(entries) + b"".join(b"%d %s\n" % (size, name) for size, name in entries)


def summed(data):
    return data + hashlib.sha256(data).digest()


def told(raw, answer, wanted=LOGS):
    """Pull from a host that always answers so."""
    return pull(FakeRemote("pi-a", {(): answer}), "python", "/logs", raw, wanted)


def test_the_test_speaks_the_senders_language(raw):
    """What the tests below bend is right as long as it is straight."""
    assert told(raw, table((2, b"job"), (3, b"events")) + summed(b"ok") + summed(b"yes")).keys() == {"job", "events"}
    assert held(raw) == {"events": b"yes", "job": b"ok"}


@pytest.mark.parametrize(
    "name", [b"../../evil", b"/evil", b"evil", b"..", b".", b"", b"events/../evil", b".events.part", b"\xff", b"job\0"]
)
def test_a_host_cannot_choose_where_its_files_go(tmp_path, raw, name):
    """Names that were not asked for are written nowhere, wherever they stand in the table."""
    for entries in (((4, name), (2, b"job")), ((2, b"job"), (4, name))):
        answer = table(*entries) + b"".join(summed(b"evil"[:size]) for size, _ in entries)
        with pytest.raises(HostError, match=r"^pi-a: pull: it sends what it was not asked for: "):
            told(raw, answer)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


SOUND = table((4, b"job")) + summed(b"1234")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "what it sends ends too early"),
        (b"1\n", "what it sends ends too early"),
        (SOUND[:-1], "what it sends ends too early"),
        (SOUND + b"x", "it sends more than it announced"),
        (b"0\n" + b"x", "it sends more than it announced"),
        (b"Welcome to pi-a!\n", "an answer that cannot be understood: b'Welcome"),
        (b"x" * 5000, "an answer that cannot be understood: b'xxx"),
        (b"-1\n", "an answer that cannot be understood: b'-1"),
        (b"9" * 900 + b"\n", "what it sends ends too early"),
        (b"1\n-4 job\n", "an answer that cannot be understood: b'-4'"),
        (b"1\n" + b"9" * 900 + b" job\n", "it has more to send than there is room for here"),
        (table((1 << 60, b"job")), "it has more to send than there is room for here"),
        (table((4, b"job"), (4, b"job")), "it sends what it was not asked for: b'4 job"),
        (table((4, b"job")) + b"1235" + hashlib.sha256(b"1234").digest(), "job arrived damaged, and is not kept"),
        (table((4, b"job")) + b"1234" + bytes(32), "job arrived damaged, and is not kept"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_about_that_host(raw, answer, message):
    """Nothing of it is kept, neither a file nor a draft."""
    with pytest.raises(HostError) as caught:
        told(raw, answer)
    assert str(caught.value).startswith(f"pi-a: pull: {message}")
    assert "\n" not in str(caught.value)
    assert {name: content for name, content in held(raw).items() if content != b"1234"} == {}
    assert set(held(raw)) <= {"job"}


@given(answer=st.binary(max_size=200) | st.binary(max_size=60).map(lambda rest: SOUND[:-20] + rest))
def test_no_answer_makes_anything_but_a_host_error(tmp_path_factory, answer):
    """Whatever a host sends: it is an error with its name, or what it announced."""
    folder = tmp_path_factory.mktemp("raw")
    with contextlib.suppress(HostError):
        assert told(folder, answer) in ({}, {"job": PulledFile(4, 0)})
    assert set(held(folder)) <= {"job"}


def test_a_wrong_file_costs_no_other(raw):
    """The others are kept; the wrong one is asked for once more, from its beginning."""
    answer = table((4, b"job"), (3, b"events")) + b"1234" + bytes(32) + summed(b"yes")
    again = table((4, b"job")) + summed(b"1234")
    remote = FakeRemote("pi-a", {lambda argv: "events" in argv: answer, (): again})
    assert pull(remote, "python", "/logs", raw, LOGS).keys() == {"job", "events"}
    assert held(raw) == {"job": b"1234", "events": b"yes"}
    assert [call.argv[-3:] for call in remote.calls] == [("stdout", "0", str(16 << 20)), ("job", "0", "0")]


@pytest.mark.parametrize("name", ["job", "events"])
def test_a_link_in_the_run_directory_is_not_followed(tmp_path, raw, name):
    """Somebody put it there: a file takes its place, and what it leads to is neither written nor counted as had."""
    (tmp_path / "precious").write_bytes(b"precious")
    raw.mkdir(parents=True)
    (raw / "job").symlink_to("../../precious")
    (raw / ".events.part").symlink_to("../../precious")
    (raw / "events").write_bytes(b"x" * 100)
    told(raw, table((3, name.encode())) + summed(b"yes"), more())
    assert (raw / name).read_bytes() == b"yes"
    assert not (raw / name).is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_place_that_cannot_be_written_is_an_error_of_that_host(tmp_path):
    """It must not hide what went wrong before: it is a DeployError like others."""
    (tmp_path / "raw").write_text("in the way")
    with pytest.raises(HostError, match=r"^pi-a: pull: .*raw/pi-a cannot be written: Not a directory"):
        told(tmp_path / "raw" / "pi-a", b"0\n")
