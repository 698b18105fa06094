"""Detached processes: they outlive who started them, are ended when asked, and are never mistaken for another one."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest

from flcommon import commands, identity, lease, process
from flcommon.following import watch
from flcommon.process import Exit, Identity

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = "detached_worker"
WORKER = """
import json, os, signal, subprocess, sys
from pathlib import Path

job_file = Path(sys.argv[1])
here, job = job_file.parent, json.loads(job_file.read_bytes())
if job.get("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
helper = subprocess.Popen(["cat", job["gate"]]) if job.get("helper") else None
print("to stdout", flush=True)
print("to stderr", file=sys.stderr, flush=True)
with (here / "events.jsonl").open("a+") as log:
    log.seek(0)
    seq = len(log.read().splitlines())
    log.write(json.dumps({"name": "ready", "seq": seq, "helper": helper.pid if helper else None}) + "\\n")
with open(job["gate"]) as gate:  # until the test opens the other end
    gate.read()
sys.exit(job["status"])
"""
CLI = [sys.executable, "-P", "-m", "flcommon.commands"]
ORDER = b'{"job":{}}'


@pytest.fixture(autouse=True)
def _no_process_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test starts bears its mark; at the end nothing with the mark may live."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("PROCESS_TEST_MARK", mark)
    yield
    left = [one for one in psutil.process_iter() if _marked(one, mark)]
    _, alive = psutil.wait_procs(left, timeout=5)
    for one in alive:
        one.kill()
    for child in psutil.Process().children():
        if child.status() == psutil.STATUS_ZOMBIE:  # a supervisor, for which nobody waits
            os.waitpid(child.pid, 0)
    assert not alive, f"left behind: {alive}"


def _marked(one: psutil.Process, mark: str) -> bool:
    if one.pid == os.getpid():
        return False
    try:
        return one.status() != psutil.STATUS_ZOMBIE and one.environ().get("PROCESS_TEST_MARK") == mark
    except psutil.Error:
        return False


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a campaign's directory that does not exist yet; the worker's module can be imported."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / f"{MODULE}.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"), prepend=os.pathsep)
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "campaigns" / "c1" / "host"


def gate(place: Path) -> Path:
    return place.parents[2] / "gate"


def job(place: Path, status: int = 0, *, deaf: bool = False, helper: bool = False) -> bytes:
    return json.dumps({"gate": str(gate(place)), "status": status, "deaf": deaf, "helper": helper}).encode()


def begin(place: Path, what: bytes, module: str = MODULE, cli: list[str] = CLI) -> None:
    """Start a module on a job, as a host does: in a process of its own, for it forks. Raises SystemExit."""
    argv = [*cli, "start", str(place), module]
    done = subprocess.run(argv, input=b'{"job":%b}' % what, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.decode())


def start(place: Path, what: bytes) -> dict:
    """Start the worker and wait until it says that it is ready; return what it said."""
    begin(place, what)
    return ready(place)


def ready(place: Path) -> dict:
    return json.loads(next(watch(place, ["ready"])))


def release(place: Path) -> None:
    """Let the worker go on to its end."""
    gate(place).open("w").close()


def wait_ended(place: Path) -> Exit:
    """Return the last line of a watch, which comes when the process has ended."""
    *_, last = watch(place, [])
    return msgspec.json.decode(last, type=Exit)


def wait_gone(descriptor: int) -> bool:
    """Wait for the end of a process that is nobody's child, by its pidfd."""
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)


# --- start ------------------------------------------------------------------------------------------------------------


def test_start_returns_while_the_process_runs(place: Path) -> None:
    """`start` does not wait for the end: the process is listed, and has no exit status yet."""
    start(place, job(place))
    assert process.running(place.parents[1]) == [place]
    assert process.read_exit(place) is None
    release(place)
    assert wait_ended(place) == Exit(0)
    assert process.running(place.parents[1]) == []


def test_who_starts_it_is_there(place: Path) -> None:
    """A link may be shaped from the first moment on: the lease does not wait for the controller's next word."""
    start(place, job(place))
    assert lease.is_held(place / lease.CONTROL_FILE)
    release(place)
    wait_ended(place)


def test_the_directory_holds_all_that_belongs_to_it(place: Path) -> None:
    """Job, output, identity and exit status are files in the campaign's directory; the job is for its owner alone."""
    start(place, job(place))
    who = process.read_identity(place)
    assert who is not None
    assert os.getpgid(who.pid) == who.pid
    release(place)
    wait_ended(place)
    assert (place / "job.json").read_bytes() == job(place)
    assert (place / "job.json").stat().st_mode & 0o777 == 0o600
    assert (place / "stdout").read_text() == "to stdout\n"
    assert (place / "stderr").read_text() == "to stderr\n"
    assert sorted(path.name for path in place.glob("*.tmp")) == []


@pytest.mark.parametrize("status", [0, 3])
def test_the_exit_status_is_written_down(place: Path, status: int) -> None:
    """What the process returned is in exit.json."""
    start(place, job(place, status))
    release(place)
    assert wait_ended(place) == Exit(status)
    assert json.loads((place / "exit.json").read_bytes()) == {"status": status}


def test_a_signal_is_a_negative_status(place: Path) -> None:
    """A process that the kernel killed (out of memory, for one) says so: -9."""
    start(place, job(place))
    os.kill(process.read_identity(place).pid, signal.SIGKILL)
    assert wait_ended(place) == Exit(-9)


def test_a_module_that_is_not_there_ends_at_once(place: Path) -> None:
    """The process has run and failed: status 1, and Python's reason in the stderr file."""
    begin(place, b"{}", "no_such_module")
    assert wait_ended(place) == Exit(1)
    assert "no_such_module" in (place / "stderr").read_text()


def test_start_never_overwrites_an_earlier_one(place: Path) -> None:
    """A campaign's directory is used once."""
    start(place, job(place))
    with pytest.raises(SystemExit, match=f"{place}: File exists"):
        begin(place, b"{}")
    assert (place / "job.json").read_bytes() == job(place)
    release(place)
    assert wait_ended(place) == Exit(0)


def test_a_start_that_fails_says_why(place: Path) -> None:
    """When the supervisor cannot start the process, its last words are the error."""
    gone = "import sys, flcommon.process as p; p.PYTHON = ('/no/such/python',)"
    cli = [sys.executable, "-c", f"{gone}; from flcommon.commands import main; sys.exit(main(sys.argv[1:]))"]
    with pytest.raises(SystemExit, match=r"FileNotFoundError: .*'/no/such/python'"):
        begin(place, job(place), cli=cli)
    assert process.running(place.parents[1]) == []


def test_files_in_the_current_directory_are_not_our_modules(place: Path, tmp_path: Path) -> None:
    """A `msgspec.py` in a user's home directory does no harm."""
    (tmp_path / "msgspec.py").write_text("raise RuntimeError\n")
    done = subprocess.run([*CLI, "start", place, "this"], input=ORDER, cwd=tmp_path, capture_output=True, check=True)
    assert done.stderr == b""
    assert wait_ended(place) == Exit(0)


def test_it_outlives_the_session_that_started_it(place: Path) -> None:
    """The starter's session is killed whole, as when an SSH connection breaks: the process lives and its end is noted.

    Nothing of it holds the starter's output open either: an SSH channel would not close before that.
    """
    script = '"$@" < job && echo started && exec cat'
    argv = ["sh", "-c", script, "sh", *CLI, "start", str(place), MODULE]
    place.parent.mkdir(parents=True)
    (place.parent / "job").write_bytes(b'{"job":%b}' % job(place, 3))
    with subprocess.Popen(
        argv, cwd=place.parent, start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout.readline() == b"started\n"
        os.killpg(starter.pid, signal.SIGKILL)
        assert starter.stdout.read() == b""
        assert starter.wait(10) == -signal.SIGKILL
    who = process.read_identity(place)
    assert os.getsid(who.pid) not in (starter.pid, os.getsid(0))
    ready(place)
    assert process.running(place.parents[1]) == [place]
    release(place)
    assert wait_ended(place) == Exit(3)


def test_a_second_campaign_is_refused(place: Path) -> None:
    """Two controllers that start at once: one comes first, the other is told which campaign runs; nothing is left."""
    start(place, job(place))
    other = place.parents[1] / "c2" / "host"
    with pytest.raises(SystemExit, match=f"a campaign runs there already \\({place}\\)"):
        begin(other, b"{}")
    assert not other.parent.exists()
    process.stop(place)
    assert wait_ended(place) == Exit(-signal.SIGTERM)


def test_of_many_starts_at_once_one_succeeds(place: Path) -> None:
    """The look at what runs and the start are one step: no gap for another controller in between."""
    campaigns = place.parents[1]
    argvs = [[*CLI, "start", campaigns / f"c{number}" / "host", MODULE] for number in range(4)]
    starts = [subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for argv in argvs]
    for one in starts:
        one.stdin.write(b'{"job":%b}' % job(place))
        one.stdin.close()
    said = [one.stderr.read() for one in starts]
    assert sorted(one.wait(10) for one in starts) == [0, 1, 1, 1]
    assert sum(b"a campaign runs there already" in text for text in said) == 3
    for one in starts:
        one.stderr.close()
    (winner,) = process.running(campaigns)
    process.stop(winner)
    assert wait_ended(winner) == Exit(-signal.SIGTERM)


# --- again ------------------------------------------------------------------------------------------------------------


def begin_again(place: Path) -> subprocess.CompletedProcess[bytes]:
    """Start it again as a host does, and wait until it is ready once more."""
    argv = [sys.executable, "-P", "-c", AGAIN, str(place), MODULE]
    return subprocess.run(argv, capture_output=True, check=False)


AGAIN = """
import sys
from pathlib import Path
from flcommon.process import again
print(again(Path(sys.argv[1]), sys.argv[2]))
"""


def kill(place: Path) -> Exit:
    os.kill(process.read_identity(place).pid, signal.SIGKILL)
    return wait_ended(place)


def test_a_process_that_died_is_started_again(place: Path) -> None:
    """The same job, a new process; output and events go on behind the earlier ones, and its end is its own."""
    start(place, job(place, 3))
    first = process.read_identity(place)
    assert kill(place) == Exit(-signal.SIGKILL)
    assert begin_again(place).stdout == b"0\n"
    second = process.read_identity(place)
    assert (first.start, second.start) == (1, 2)
    assert second.pid != first.pid
    assert process.running(place.parents[1]) == [place]
    assert process.read_exit(place) is None
    assert json.loads(next(watch(place, ["ready"], after=0)))["seq"] == 1
    release(place)
    assert wait_ended(place) == Exit(3)
    assert (place / "stdout").read_text() == "to stdout\n" * 2
    assert (place / "stderr").read_text() == "to stderr\n" * 2


def test_one_that_runs_is_not_started_again(place: Path) -> None:
    """Who does not know whether the wish has arrived may ask once more, and so may another controller."""
    start(place, job(place))
    who = process.read_identity(place)
    assert begin_again(place).stdout == b"None\n"
    assert process.read_identity(place) == who
    release(place)
    assert wait_ended(place) == Exit(0)


def test_of_many_that_start_it_again_at_once_one_does(place: Path) -> None:
    """Two controllers that watch the same campaign: one process comes of it."""
    start(place, job(place))
    kill(place)
    argv = [sys.executable, "-P", "-c", AGAIN, str(place), MODULE]
    asked = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(4)]
    assert sorted(one.communicate(timeout=10)[0] for one in asked) == [b"0\n", b"None\n", b"None\n", b"None\n"]
    assert process.read_identity(place).start == 2
    ready(place)
    process.stop(place)
    wait_ended(place)


def test_a_crash_loop_has_an_end(place: Path) -> None:
    """The count is kept on the host, whoever asks; the last refusal is one line."""
    start(place, job(place))
    for _ in range(process.MOST_STARTS - 1):
        kill(place)
        assert begin_again(place).returncode == 0
    kill(place)
    refused = begin_again(place)
    assert (refused.returncode, refused.stderr) == (1, b"it was started again 3 times already\n")
    assert process.running(place.parents[1]) == []


def test_what_was_stopped_is_not_started_again(place: Path) -> None:
    """However late the wish of a controller arrives that has not heard of it."""
    start(place, job(place))
    process.stop(place)
    wait_ended(place)
    refused = begin_again(place)
    assert (refused.returncode, refused.stderr) == (1, b"it was stopped\n")


def test_nothing_is_started_again_where_nothing_was(place: Path) -> None:
    """A directory without a job."""
    assert begin_again(place).stderr == f"{place}: nothing was started there\n".encode()


def test_nothing_is_started_again_beside_another_campaign(place: Path) -> None:
    """Somebody has begun another one since."""
    start(place, job(place))
    kill(place)
    other = place.parents[1] / "c2" / "host"
    start(other, job(place))
    assert begin_again(place).stderr == f"a campaign runs there already ({other})\n".encode()
    process.stop(other)
    wait_ended(other)


def test_a_process_whose_end_nobody_saw_is_started_again(place: Path) -> None:
    """A power failure in the first moments may have taken the file that says who it was; the job is enough."""
    start(place, job(place))
    kill(place)
    (place / "exit.json").unlink()
    (place / "process.json").write_bytes(b"")
    assert begin_again(place).returncode == 0
    assert process.read_identity(place).start == 2
    process.stop(place)
    wait_ended(place)


def test_what_a_killed_process_has_started_ends_with_it(place: Path) -> None:
    """It would hold the memory that its successor needs."""
    helper = os.pidfd_open(start(place, job(place, helper=True))["helper"])
    kill(place)
    assert wait_gone(helper)


def test_a_watcher_stays_while_another_is_started(place: Path) -> None:
    """One that comes between the end of a process and the start of the next takes it for no end."""
    start(place, job(place))
    kill(place)
    with contextlib.ExitStack() as stack, subprocess.Popen(["cat"], stdin=subprocess.PIPE) as successor:
        with process.alone(place.parents[1]):
            (place / "exit.json").unlink()  # as a start does first, under the lock
            argv = [*CLI, "watch", place, "0", "ready"]
            watcher = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE))
            assert not select.select([watcher.stdout], [], [], 1.5)[0], "it has said something"
            (place / "process.json").write_bytes(msgspec.json.encode(process.identify(successor.pid, 2)))
        write(place, b'{"name":"ready","seq":1}\n')
        assert watcher.stdout.readline() == b'{"name":"ready","seq":1}\n'
        (place / "exit.json").write_bytes(b'{"status":7}')
        successor.communicate(timeout=10)
        assert watcher.stdout.read() == b'{"status":7}\n'


def test_again_from_the_command_line_watches_what_is_new(place: Path) -> None:
    """The new process's events and its end; of one that runs, those after the number that the caller knows."""
    start(place, job(place, 5))
    kill(place)
    argv = [*CLI, "again", place, MODULE, "0", "ready"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as first:
        assert json.loads(first.stdout.readline())["seq"] == 1
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as second:
            assert json.loads(second.stdout.readline())["seq"] == 1
            release(place)
            assert first.stdout.read() == second.stdout.read() == b'{"status":5}\n'


# --- stop -------------------------------------------------------------------------------------------------------------


def test_stop_asks_first(place: Path) -> None:
    """SIGTERM is enough for a process that honours it."""
    start(place, job(place))
    assert process.stop(place) is True
    assert wait_ended(place) == Exit(-signal.SIGTERM)


def test_stop_insists(place: Path) -> None:
    """A process that ignores SIGTERM is killed when the grace is over."""
    start(place, job(place, deaf=True))
    assert process.stop(place, grace_s=0.1) is True
    assert wait_ended(place) == Exit(-signal.SIGKILL)


def test_stop_ends_the_whole_group(place: Path) -> None:
    """What the process has started itself ends with it."""
    helper = os.pidfd_open(start(place, job(place, helper=True))["helper"])
    assert process.stop(place) is True
    assert wait_gone(helper)
    assert wait_ended(place) == Exit(-signal.SIGTERM)


def test_stop_twice_is_once(place: Path) -> None:
    """There is nothing to end where nothing runs any more."""
    start(place, job(place))
    release(place)
    wait_ended(place)
    assert process.stop(place) is False


def test_what_was_stopped_before_it_started_never_starts(place: Path) -> None:
    """An interrupt may come while the order to start is still under way."""
    assert process.stop(place) is False
    with pytest.raises(SystemExit, match=f"{place}: File exists"):
        begin(place, b"{}")
    with pytest.raises(SystemExit, match="nothing was started there"):
        next(watch(place, []))


def test_a_reused_pid_is_never_signalled(place: Path) -> None:
    """The pid is alive but started at another time: it is somebody else, is not listed and is not stopped."""
    place.mkdir(parents=True)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as innocent:
        truth = process.identify(innocent.pid)
        forged = Identity(innocent.pid, f"{truth.started}0")
        (place / "process.json").write_bytes(msgspec.json.encode(forged))
        assert process.alive(truth)
        assert process.running(place.parents[1]) == []
        assert process.stop(place, grace_s=0.1) is False
        assert innocent.poll() is None
        innocent.communicate(timeout=10)
    assert innocent.returncode == 0


def test_a_pid_and_start_time_of_before_a_reboot_are_somebody_else(place: Path) -> None:
    """The same pid, as many ticks after another boot: not ours, although all that counts from the boot is equal."""
    place.mkdir(parents=True)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as innocent:
        truth = process.identify(innocent.pid)
        assert boot_id in truth.started
        forged = Identity(innocent.pid, truth.started.replace(boot_id, str(uuid.uuid4())))
        (place / "process.json").write_bytes(msgspec.json.encode(forged))
        assert process.alive(truth)
        assert process.running(place.parents[1]) == []
        assert process.stop(place, grace_s=0.1) is False
        assert innocent.poll() is None
        innocent.communicate(timeout=10)


def ticks(pid: int) -> int:
    """Return the part of a start time that counts from the boot."""
    return int(identity.start_time(pid).split()[-1])


def test_the_start_time_is_found_whatever_a_program_is_called(tmp_path: Path) -> None:
    """A name may hold what separates the fields of /proc/PID/stat; a zombie, and who is gone, has no start time."""
    program = Path(os.fsdecode(os.fsencode(tmp_path) + b"/) Z 1 (x\xff"))
    program.write_text("#!/bin/sh\nread line\n")
    program.chmod(0o755)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as elder, elder.stdin:
        with subprocess.Popen([program], stdin=subprocess.PIPE) as child:
            assert ticks(child.pid) >= ticks(elder.pid)
            assert process.alive(process.identify(child.pid))
            child.stdin.close()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            assert identity.start_time(child.pid) is None
        assert identity.start_time(child.pid) is None
        assert process.identify(child.pid) == Identity(child.pid, "gone")
        assert not process.alive(process.identify(child.pid))


# --- watch ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def child(place: Path) -> Iterator[subprocess.Popen]:
    """Return a process that lives until its stdin is closed, entered as the one of the directory."""
    place.mkdir(parents=True)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        (place / "process.json").write_bytes(msgspec.json.encode(process.identify(child.pid)))
        yield child


def write(place: Path, data: bytes) -> None:
    with (place / "events.jsonl").open("ab") as file:
        file.write(data)


def test_watch_yields_the_named_events_and_the_exit_last(place: Path, child: subprocess.Popen) -> None:
    """Other events, and lines that are none, are left out; the very lines are passed on."""
    write(place, b'{"name":"ready","x": 1}\n{"name":"other"}\nnonsense\n{"name":"\xff"}\n{"name":"listening"}\n')
    lines = watch(place, ["ready", "listening"])
    assert next(lines) == b'{"name":"ready","x": 1}\n'
    assert next(lines) == b'{"name":"listening"}\n'
    write(place, b'{"name":"ready","x": 2}\n')
    (place / "exit.json").write_bytes(b'{"status":4}')
    child.communicate(timeout=10)
    assert list(lines) == [b'{"name":"ready","x": 2}\n', b'{"status":4}\n']


def test_a_watch_that_comes_back_goes_on_where_it_was(place: Path, child: subprocess.Popen) -> None:
    """After a lost connection nothing comes twice, and nothing that happened meanwhile is missing."""
    write(place, b"".join(b'{"name":"%b","seq":%d}\n' % (b"ab"[seq % 2 :][:1], seq) for seq in range(6)))
    (place / "exit.json").write_bytes(b'{"status":0}')
    child.communicate(timeout=10)
    *lines, last = watch(place, ["a"], after=2)
    assert [json.loads(line)["seq"] for line in lines] == [4]
    assert last == b'{"status":0}\n'


def test_a_line_written_in_two_halves_comes_once_and_whole(place: Path, child: subprocess.Popen) -> None:
    """A watcher that looks in the middle of a write waits for the rest."""
    write(place, b'{"name":"first"}\n{"name":"sec')
    lines = watch(place, ["first", "second"])
    assert next(lines) == b'{"name":"first"}\n'  # the half line has been read with it
    write(place, b'ond"}\n')
    assert next(lines) == b'{"name":"second"}\n'
    (place / "exit.json").write_bytes(b'{"status":0}')
    child.communicate(timeout=10)
    assert list(lines) == [b'{"status":0}\n']


def test_a_torn_last_line_is_not_passed_on(place: Path, child: subprocess.Popen) -> None:
    """What a killed process has left half written is no event."""
    write(place, b'{"name":"first"}\n{"name":"first"')
    (place / "exit.json").write_bytes(b'{"status":-9}')
    child.communicate(timeout=10)
    assert list(watch(place, ["first"])) == [b'{"name":"first"}\n', b'{"status":-9}\n']


def test_an_end_that_nobody_saw_is_said_to_be_unknown(place: Path) -> None:
    """When the supervisor is killed with its process (a power failure), the status is None and not a guess."""
    start(place, job(place))
    pid = process.read_identity(place).pid
    supervisor = psutil.Process(pid).parent()
    supervisor.kill()
    supervisor.wait(10)
    os.kill(pid, signal.SIGKILL)
    assert wait_ended(place) == Exit(None)


# --- the command line -------------------------------------------------------------------------------------------------


def test_stop_from_the_command_line(place: Path) -> None:
    """`running` names the directories whose process lives, and only those; `stop` ends it."""
    start(place, job(place))
    dead = place.with_name("dead")
    dead.mkdir()
    (dead / "process.json").write_bytes(msgspec.json.encode(Identity(os.getpid(), "0")))
    assert process.running(place.parents[1]) == [place]
    subprocess.run([*CLI, "stop", place], check=True)
    assert wait_ended(place) == Exit(-signal.SIGTERM)
    assert process.running(place.parents[1]) == []


def test_run_from_the_command_line_starts_and_watches(place: Path) -> None:
    """One command over one connection: the events from the first on, and the exit; the order's manifest is kept."""
    order = b'{"job":%b,"manifest":{"campaign":"c1"}}' % job(place, 3)
    with subprocess.Popen([*CLI, "run", place, MODULE, "ready"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        one.stdin.write(order)
        one.stdin.close()
        assert json.loads(one.stdout.readline())["name"] == "ready"
        release(place)
        assert one.stdout.read() == b'{"status":3}\n'
    assert json.loads((place / "manifest.json").read_bytes()) == {"campaign": "c1"}


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """No traceback reaches the controller: the file, and what the system says."""
    (tmp_path / "campaigns").write_text("in the way")
    argv = [*CLI, "start", tmp_path / "campaigns" / "c" / "h", MODULE]
    done = subprocess.run(argv, input=ORDER, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"{tmp_path}/campaigns: File exists\n"


def test_watch_from_the_command_line(place: Path) -> None:
    """`watch` prints each line at once, and ends by itself after the exit line."""
    start(place, job(place, 3))
    with subprocess.Popen([*CLI, "watch", place, "-1", "ready"], stdout=subprocess.PIPE) as watcher:
        assert json.loads(watcher.stdout.readline())["name"] == "ready"
        release(place)
        assert watcher.stdout.read() == b'{"status":3}\n'
        assert watcher.wait(10) == 0


def test_an_unknown_verb_is_refused(tmp_path: Path) -> None:
    """A slip of the pen says what was not understood."""
    with pytest.raises(SystemExit, match="unknown verb begin"):
        commands.main(["begin", str(tmp_path)])
