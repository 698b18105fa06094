"""One host in namespaces of its own, from its first process: builds its file system, runs OpenSSH's sshd, reaps.

Forked by `deploy.providers.netns.supervisor` as process 1 of a new PID namespace, in the host's network namespace.
When it dies, by whatever cause, the kernel kills every process of the host: that is a power failure.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import msgspec

from deploy.errors import DeployError
from deploy.providers.netns import calls, cgroup, links
from deploy.providers.netns.plan import Failed, HostPlan, LabPlan, Up
from deploy.providers.netns.root import Disk, enter_root

_KEY = Path("/etc/ssh/ssh_host_ed25519_key")
_LOG = Path("/run/sshd.log")
_LOG_BYTES = 1 << 20
_LISTENS = b"Server listening on"
# What a host could do to the machine rather than to itself; a real host's clock is its own, this one's is shared.
_NOT_HERE = (calls.SET_CLOCK, calls.MODULES, calls.RAW_IO, calls.MAKE_DEVICES)


@dataclass(frozen=True)
class Booting:
    """What a host is made of: its plan, its disk, the key that opens it."""

    plan: LabPlan
    host: HostPlan
    disk: Disk
    public_key: str


def live(booting: Booting, report: int) -> NoReturn:
    """Be the host; tells its start, or why there is none, to the open file `report`, and never returns."""
    try:
        sshd = _boot(booting)
        _tell(report, Up(keys={booting.host.name: _public_host_key()}))
        _reap_for_ever(sshd)
    except (OSError, DeployError, subprocess.CalledProcessError) as error:
        _tell(report, Failed(why=f"{booting.host.name}: {_why(error)}"))
    finally:
        os._exit(1)


def _tell(report: int, message: Up | Failed) -> None:
    with contextlib.suppress(OSError):
        os.write(report, msgspec.json.encode(message) + b"\n")
        os.close(report)


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and "overlay" in str(error):
        return f"this machine's kernel does not lay an overlay file system over its root ({error.strerror})"
    return f"{error.strerror}" if isinstance(error, OSError) and error.strerror else f"{error}"


def _boot(booting: Booting) -> subprocess.Popen[bytes]:
    """Make this process the first one of a host, and start its SSH server; returns when that can be reached."""
    plan, host = booting.plan, booting.host
    # What the controller or Python ignores is not the host's business; by default, a first process ignores all.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    if host.cpu is not None:
        cgroup.enter(plan, host.name)
    calls.unshare(calls.NEW_MOUNTS | calls.NEW_UTS | calls.NEW_IPC)
    socket.sethostname(host.name)
    links.set_addresses(plan, "eth0", host.number)
    enter_root(booting.disk, plan, host, booting.public_key)
    for capability in _NOT_HERE:
        calls.drop_capability(capability)
    if not _KEY.exists():
        argv = [plan.request.programs.keygen, "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", f"{_KEY}"]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return _start_sshd(plan)


def _start_sshd(plan: LabPlan) -> subprocess.Popen[bytes]:
    Path("/run/sshd").mkdir(mode=0o755)  # its privilege separation directory
    addresses = ["0.0.0.0", *(["::"] if plan.network6 else [])]  # noqa: S104 - all addresses of a host of its own
    sshd = subprocess.Popen(
        [plan.request.programs.sshd, "-D", "-e", *(f"-oListenAddress={address}" for address in addresses)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": os.defpath},
    )
    said = b""
    while said.count(_LISTENS) < len(addresses):
        line = _stderr(sshd).readline()
        said += line
        if not line:
            raise DeployError(f"sshd did not start: {said.decode(errors='replace').strip()}")
    _LOG.write_bytes(said)
    return sshd


def _stderr(sshd: subprocess.Popen[bytes]) -> IO[bytes]:
    if sshd.stderr is None:
        raise AssertionError("made with a pipe")
    return sshd.stderr


def _public_host_key() -> str:
    """Return type and key, without the comment."""
    return " ".join(_KEY.with_suffix(".pub").read_text().split()[:2])


def _reap_for_ever(sshd: subprocess.Popen[bytes]) -> NoReturn:
    """Collect every process of the host that ends without a parent, and keep what sshd has to say."""
    wakened, waking = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # a handler wakes; exec resets it for the children
    log = _stderr(sshd).fileno()
    waiting = {wakened, log}
    while True:
        _reap()
        for file in select.select(waiting, [], [])[0]:
            data = os.read(file, 1 << 16)
            if file == log:
                _keep(data)
                waiting -= set() if data else {log}


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _keep(said: bytes) -> None:
    """Append to the log, up to a size that a small /run can bear; a full one is no reason to die."""
    with contextlib.suppress(OSError), _LOG.open("ab") as log:
        if log.tell() < _LOG_BYTES:
            log.write(said)
