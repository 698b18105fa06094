"""Many hosts on this machine: OpenSSH servers on loopback, each with a home, a work directory and logs of its own.

Everything is below one temporary directory; the servers are children of this process and end with it.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fanout_ours import Station
from processes import REPOSITORY, BenchmarkFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

SSHD = shutil.which("sshd", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")
FILES, TREE_BYTES = 150, 1_000_000
LOGS, LOG_BYTES = 5, 2_000_000
CHANGED = "package-7/module-7.py"
_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Lab:
    """The hosts, and what is pushed to them: `tree`, and `older`, of which one file is different."""

    place: Path
    stations: tuple[Station, ...]

    @property
    def tree(self) -> Path:
        """What is pushed."""
        return self.place / "tree"

    @property
    def older(self) -> Path:
        """What hosts have when one file has changed since."""
        return self.place / "older"

    @property
    def key(self) -> Path:
        """The key that opens all hosts."""
        return self.place / "key"

    @property
    def known_hosts(self) -> Path:
        """The hosts' keys."""
        return self.place / "known_hosts"

    @property
    def logs(self) -> tuple[str, ...]:
        """The names of the files that are pulled from each host."""
        return tuple(f"log-{number}" for number in range(LOGS))


MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of its own, readable by this user only
"""Hosts and results live in memory: one disk under 50 hosts would time its own journal, twofold from run to run."""


@contextlib.contextmanager
def hosts(count: int) -> Iterator[Lab]:
    """Start so many hosts for the length of a with-block; raises BenchmarkFailed."""
    if SSHD is None:
        raise BenchmarkFailed("OpenSSH's sshd is not installed (Debian: openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's privilege separation directory
    place = Path(tempfile.mkdtemp(prefix="fanout-", dir=MEMORY if MEMORY.is_dir() else None))
    servers: list[subprocess.Popen[bytes]] = []
    try:
        lab = Lab(place, tuple(Station(f"h{n:03}", port, f"{place}/h{n:03}") for n, port in enumerate(_ports(count))))
        _make_keys(lab)
        _make_files(lab)
        servers += [_start(lab, station) for station in lab.stations]
        for station in lab.stations:
            _await_port(station.port)
        yield lab
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait()
        for left in place.glob("*/*/pid"):  # of a job that was interrupted
            _end(int(left.read_text() or 0))
        shutil.rmtree(place)


@contextlib.contextmanager
def far_away(lab: Lab, rtt_ms: float) -> Iterator[Lab]:
    """Put a relay in front of every host that adds a round trip."""
    ports = [str(station.port) for station in lab.stations]
    argv = [sys.executable, str(REPOSITORY / "bench" / "relay.py"), f"{rtt_ms}", *ports]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as relay:
        if relay.stdin is None or relay.stdout is None:
            raise AssertionError("both are pipes")
        new = [int(relay.stdout.readline()) for _ in ports]
        _know(lab, new)
        pairs = zip(lab.stations, new, strict=True)
        yield Lab(lab.place, tuple(Station(station.name, port, station.directory) for station, port in pairs))
        relay.stdin.close()


def end_started(station: Station, peer: str) -> None:
    """End the detached process that a job has started; raises BenchmarkFailed if it does not run."""
    file = Path(station.directory, peer, "pid")
    if not _end(int(file.read_text())):
        raise BenchmarkFailed(f"{station.name}: {peer}: the process that was started does not run")
    file.unlink()


def _end(pid: int) -> bool:
    """End a process that a job has started; False if it does not run."""
    try:
        started = Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\x00600")
    except FileNotFoundError:
        return False
    if started:
        os.kill(pid, signal.SIGKILL)
    return started


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in taken]


def _make_keys(lab: Lab) -> None:
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", lab.place / name], check=True)
    shutil.copy(lab.place / "key.pub", lab.place / "authorized_keys")
    _know(lab, [station.port for station in lab.stations])


def _know(lab: Lab, ports: list[int]) -> None:
    key = " ".join((lab.place / "host_key.pub").read_text().split()[:2])
    with lab.known_hosts.open("a") as file:
        file.writelines(f"[127.0.0.1]:{port} {key}\n" for port in ports)


def _make_files(lab: Lab) -> None:
    """Make the tree of Python's own sources (they shrink as code does), and logs of noise."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    source = b"".join(path.read_bytes() for path in paths)
    size = TREE_BYTES // FILES
    for number in range(FILES):
        file = lab.tree / f"package-{number % 10}" / f"module-{number}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(source[number * size : (number + 1) * size])
    shutil.copytree(lab.tree, lab.older)
    (lab.older / CHANGED).write_bytes(b"# what it was before\n" * 300)
    noise = random.Random(1).randbytes(LOG_BYTES)  # noqa: S311 - no secret
    for station in lab.stations:
        folder = Path(station.directory, "logs")
        folder.mkdir(parents=True)
        for number, name in enumerate(lab.logs):
            (folder / name).write_bytes(f"{station.name} {number} ".encode() + noise)


def _start(lab: Lab, station: Station) -> subprocess.Popen[bytes]:
    options = {
        "ListenAddress": f"127.0.0.1:{station.port}",
        "HostKey": lab.place / "host_key",
        "AuthorizedKeysFile": lab.place / "authorized_keys",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
        "PasswordAuthentication": "no",
        "SetEnv": f"HOME={station.directory}",
        "Subsystem": "sftp internal-sftp",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    log = f"{station.directory}/sshd.log"
    return subprocess.Popen([str(SSHD), "-D", "-E", log, "-f", "/dev/null", *words], stdin=subprocess.DEVNULL)


def _await_port(port: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError as error:
            if time.monotonic() > deadline:
                raise BenchmarkFailed(f"sshd on port {port} did not start") from error
            time.sleep(0.02)
        else:
            return
