"""The virtual lab: what its hosts are, and that nothing of them stays, however the controller ends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from deploy.errors import DeployError
from deploy.inventory import VirtualLab
from deploy.providers.virtual import lab as virtual
from deploy.remote import ssh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.inventory import Inventory

# A daemon as they are in the wild: its own session, no parent, no streams; it ignores polite signals.
DAEMON = """
import os, signal, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
open("pid.new", "w").write(str(os.getpid()))
os.rename("pid.new", "pid")
for fd in (0, 1, 2): os.close(fd)
time.sleep(600)
"""
START_DAEMON = ["sh", "-c", '"$0" -c "$1"; until [ -e pid ]; do :; done; cat pid', sys.executable, DAEMON]

CONTROLLER = """
import json, sys
from pathlib import Path
from deploy.inventory import VirtualLab
from deploy.providers.virtual.lab import virtual_lab
from deploy.remote import ssh
with virtual_lab(VirtualLab(file=Path("x"), lab="child", playbook=None, clients=1)) as lab:
    with ssh.connect(lab.server) as remote:
        pid = remote.run(json.loads(sys.argv[1]), step="start")
    print(json.dumps([lab.server.ssh.identity_file, int(pid)]), flush=True)
    sys.stdin.read()
"""


def small(clients: int = 1) -> VirtualLab:
    return VirtualLab(file=Path("virtual.yaml"), lab="small", playbook=None, clients=clients)


@contextlib.contextmanager
def controller() -> Iterator[tuple[subprocess.Popen[bytes], Path, psutil.Process]]:
    """A controller of its own, its lab's directory and a daemon on its server."""
    argv = [sys.executable, "-c", CONTROLLER, json.dumps(START_DAEMON)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            identity_file, pid = json.loads(process.stdout.readline())
            yield process, Path(identity_file).parent, psutil.Process(pid)
        finally:
            process.kill()


def wait_for_end(process: psutil.Process, seconds: float = 10) -> None:
    """Wait on the process itself; one that is gone already is fine."""
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        pidfd = os.pidfd_open(process.pid)
        try:
            gone = not process.is_running()  # or the process id belongs to another by now
            assert gone or select.select([pidfd], [], [], seconds)[0], f"{process} is still there"
        finally:
            os.close(pidfd)


def sshd_of(controller: subprocess.Popen[bytes]) -> psutil.Process:
    (sshd,) = psutil.Process(controller.pid).children()
    return sshd


def test_hosts_are_separate_and_private(lab: Inventory) -> None:
    homes = []
    for host in lab.hosts:
        with ssh.connect(host) as remote:
            env = dict(line.split("=", 1) for line in remote.read(["env"], step="look").splitlines())
            assert remote.read(["pwd"], step="look").strip() == env["HOME"]
            assert env["TMPDIR"].startswith(env["HOME"])
            assert env["OMP_NUM_THREADS"] == "1"
            homes.append(env["HOME"])
    assert len(set(homes)) == len(lab.hosts) == len({host.ssh.port for host in lab.hosts})
    key = Path(lab.server.ssh.identity_file or "")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700


def test_inventory(lab: Inventory) -> None:
    assert [host.name for host in lab.hosts] == ["server", "client-1", "client-2"]
    assert [host.role for host in lab.hosts] == ["server", "client", "client"]
    assert lab.server.python.path == sys.executable
    assert lab.server_address == "127.0.0.1:0"


def test_commands_have_default_signals(remote: ssh.SshRemote) -> None:
    """As under a real sshd: what the controller's own process ignores is not inherited."""
    status = remote.read(["cat", "/proc/self/status"], step="look")
    ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    # 32 and 33 belong to the C library: GNU make, for one, hands them on ignored.
    assert [number for number in range(1, 32) if ignored >> (number - 1) & 1] == []


def test_detached_process_outlives_the_connection_and_its_zombie_does_not(lab: Inventory) -> None:
    with ssh.connect(lab.clients[0]) as remote:
        daemon = psutil.Process(int(remote.run(START_DAEMON, step="start")))
    assert daemon.is_running()
    with ssh.connect(lab.clients[0]) as remote:
        remote.run(["kill", "-9", str(daemon.pid)], step="stop")
        wait_for_end(daemon)
        script = "while kill -0 $0 2>/dev/null; do :; done"  # succeeds for a zombie that nobody has reaped
        remote.run(["timeout", "10", "sh", "-c", script, str(daemon.pid)], step="wait")


def test_session_ends_with_its_connection(lab: Inventory) -> None:
    remote = ssh.connect(lab.clients[0])
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        remote.close()

    with pytest.raises(DeployError):
        remote.run(["sh", "-c", "echo $$; exec sleep 600"], step="watch", on_line=on_line)
    with contextlib.suppress(psutil.NoSuchProcess):
        wait_for_end(psutil.Process(pids[0]))


def test_nothing_stays_after_the_block() -> None:
    """Daemons, also one that hides its environment, a read-only tree, and the homes: all gone when the block ends."""
    before = psutil.Process().children()
    with virtual.virtual_lab(small()) as inventory, ssh.connect(inventory.server) as remote:
        root = Path(inventory.server.ssh.identity_file or "").parent
        remote.run(["sh", "-c", "mkdir -p code/x && touch code/x/y && chmod -R a-w code"], step="start")
        daemon = psutil.Process(int(remote.run(START_DAEMON, step="start")))
        remote.run(["rm", "pid"], step="start")
        hidden = psutil.Process(int(remote.run(["env", "-i", *START_DAEMON], step="start")))
        assert daemon.is_running()
        assert hidden.is_running()
    assert not daemon.is_running()
    assert not hidden.is_running()
    assert not root.exists()
    assert psutil.Process().children() == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_stays_after_the_controller(number: signal.Signals) -> None:
    with controller() as (process, root, daemon):
        sshd = sshd_of(process)
        process.send_signal(number)
        wait_for_end(sshd)
        wait_for_end(daemon)
        assert not root.exists()


def test_interrupt_of_the_process_group_leaves_the_cleaning_to_the_block() -> None:
    """Ctrl-C in a terminal reaches the whole foreground group: the SSH servers must not be in it."""
    with controller() as (process, root, daemon):
        os.killpg(process.pid, signal.SIGINT)
        process.wait(10)
        assert not daemon.is_running()
        assert not root.exists()


def test_leftovers_of_a_killed_lab_are_cleared_by_the_next() -> None:
    """Both the SSH servers and their controller are killed: the next start finds the lock free and clears up."""
    with controller() as (process, root, daemon):
        sshd = sshd_of(process)
        sshd.kill()
        process.kill()
        process.wait(10)
        wait_for_end(sshd)
        assert daemon.is_running()
        assert root.exists()
        with virtual.virtual_lab(small()):
            wait_for_end(daemon, 0)
            assert not root.exists()


def test_living_lab_is_not_a_leftover(lab: Inventory) -> None:
    with virtual.virtual_lab(small()) as other:
        assert other.server.ssh.port != lab.server.ssh.port
    with ssh.connect(lab.server) as remote:
        assert remote.read(["echo", "alive"], step="look") == "alive\n"


def test_failed_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "asyncssh.py").write_text("raise ImportError('broken on purpose')")
    monkeypatch.setattr(virtual, "_SOURCE", f"{tmp_path}{os.pathsep}{virtual._SOURCE}")
    with pytest.raises(DeployError, match="broken on purpose"), virtual.virtual_lab(small()):
        pytest.fail("was entered")


def test_start_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "_START_S", 0.0)
    with pytest.raises(DeployError, match="not ready"), virtual.virtual_lab(small()):
        pytest.fail("was entered")


def test_controller_does_not_import_asyncssh() -> None:
    """It takes a quarter of a second, which `deploy --help` must not pay."""
    code = "import deploy.providers.virtual.lab, sys; sys.exit('asyncssh' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
