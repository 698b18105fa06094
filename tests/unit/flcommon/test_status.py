"""How a host's processes stand, told from their files alone."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flcommon.process import EVENTS_FILE, EXIT_FILE, PROCESS_FILE, Exit, Identity, identify
from flcommon.status import LATEST, Status, statuses, tail

NOW_S = 1_000_000.0
GONE = Identity(pid=os.getpid(), started="another time")


@pytest.fixture
def process(tmp_path):
    """Return a function that makes the directory of a process that started some seconds before NOW_S."""

    def make(name, age_s, who=GONE, status=None, log=b""):
        directory = tmp_path / name / "pi-a"
        directory.mkdir(parents=True)
        file = directory / PROCESS_FILE
        file.write_bytes(msgspec.json.encode(who))
        os.utime(file, (NOW_S - age_s, NOW_S - age_s))
        if status is not None:
            (directory / EXIT_FILE).write_bytes(msgspec.json.encode(Exit(status)))
        if log:
            (directory / EVENTS_FILE).write_bytes(log)
        return str(directory)

    return make


def test_the_latest_come_first(tmp_path, process):
    """Alive by pid and start time together; ended with its status, or without a word."""
    log = b'{"name":"round-ended","trial":3,"round":2}\n{"name":"failed"}\n\xff\n{"torn'
    silent = process("c1", 300)
    failed = process("c2", 200, status=1, log=log)
    running = process("c3", 100, who=identify(os.getpid()))
    assert statuses(tmp_path, NOW_S) == [
        Status(directory=running, alive=True, exit=None, age_s=100),
        Status(directory=failed, alive=False, exit=1, age_s=200, trial=3, round=2),
        Status(directory=silent, alive=False, exit=None, age_s=300),
    ]


def test_what_went_wrong_lately_is_told(tmp_path, process):
    """Clients that are lost or given up and not back, the app's last error, and how often it was started."""
    told = (
        ("client-lost", "a"),
        ("client-lost", "b"),
        ("client-given-up", "b"),
        ("client-lost", "c"),
        ("client-back", "a"),
    )
    log = b"".join(b'{"seq":0,"name":"%b","client":"%b"}\n' % (name.encode(), who.encode()) for name, who in told)
    raised = b'{"name":"app-raised","client":"d","error":"ValueError: x"}\n{"name":"app-raised","torn\n'
    process("c1", 20, log=log)
    process("c2", 10, who=identify(os.getpid(), 3), log=raised + b"x" * (2 << 20))
    process("c3", 5, log=raised)
    third, second, first = statuses(tmp_path, NOW_S)
    assert first.missing == {"b": "given up", "c": "lost"}
    assert (first.start, second.start) == (1, 3)
    assert (first.raised, second.raised, third.raised) == (None, None, "ValueError: x")


def test_a_long_round_is_found_behind_its_samples(tmp_path, process):
    """A server of many clients writes more of them in a round than fit into the end that is read first."""
    samples = b'{"name":"tcp-sampled","client":"a","tcp":{"rtt_ms":0.1}}\n' * 40_000
    process("c1", 10, log=b'{"name":"round-started","trial":3,"round":2}\n' + samples)
    (status,) = statuses(tmp_path, NOW_S)
    assert (status.trial, status.round) == (3, 2)


def test_old_ones_are_left_out(tmp_path, process):
    """A host keeps the files of every campaign that it ever had."""
    made = [process(f"c{age}", age) for age in range(1, LATEST + 3)]
    assert [one.directory for one in statuses(tmp_path, NOW_S)] == made[:LATEST]


def test_a_host_without_campaigns(tmp_path):
    assert statuses(tmp_path / "campaigns", NOW_S) == []


@given(lines=st.lists(st.binary(max_size=5).map(lambda line: line.replace(b"\n", b"")), max_size=8),
       torn=st.binary(max_size=3).map(lambda line: line.replace(b"\n", b"")), count=st.integers(1, 9))  # fmt: skip
def test_the_tail_is_the_last_lines(tmp_path_factory, lines, torn, count):
    """A last line without its end counts as one."""
    directory = tmp_path_factory.mktemp("tail")
    whole = [line + b"\n" for line in lines] + ([torn] if torn else [])
    (directory / "stderr").write_bytes(b"".join(whole))
    assert b"".join(tail(directory, "stderr", count, follow=False)) == b"".join(whole[-count:])


def test_following_ends_with_the_process(process):
    """What is there, then what comes, then the end: here the process has ended already."""
    directory = process("c1", 10, status=0)
    with open(f"{directory}/stdout", "wb") as file:  # noqa: PTH123 - a text path, as on a host
        file.write(b"one\ntwo\nthree")
    argv = [sys.executable, "-m", "flcommon.commands", "follow", directory, "stdout", "2"]
    assert subprocess.run(argv, capture_output=True, check=True).stdout == b"two\nthree\n"
