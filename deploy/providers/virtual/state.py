"""What a virtual lab leaves on this machine (a directory and marked processes), and how all of it goes away.

Knows nothing of SSH. Used by `deploy.providers.virtual.sshd` only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import stat
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PREFIX = "fieldlab-virtual-"
MARK = "FIELDLAB_VIRTUAL_HOST"
"""Environment variable of every process of a virtual host: `<lab id>/<host>`."""

_UNLOCKED_GRACE_S = 60.0
_TERM_S, _KILL_S = 1.5, 2.0


@dataclass(frozen=True)
class LabState:
    """A live lab's private directory; whoever holds the lock (this process) keeps the lab alive."""

    root: Path
    lab_id: str
    lock_fd: int

    @property
    def identity_file(self) -> Path:
        """The private key that opens every host of this lab."""
        return self.root / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The host keys of this lab, in OpenSSH's format."""
        return self.root / "known_hosts"

    def make_home(self, host: str) -> Path:
        """Make the home directory of a host, with a directory for temporary files in it."""
        home = self.root / "home" / host
        (home / "tmp").mkdir(parents=True, mode=0o700)
        return home

    def mark(self, host: str) -> str:
        """Return the value of `MARK` for the processes of a host."""
        return f"{self.lab_id}/{host}"

    def destroy(self) -> None:
        """Kill everything that runs on the hosts, then remove their homes."""
        _kill_until_none(lambda: [*_marked(self.lab_id), *_descendants()])
        _remove(self.root)
        os.close(self.lock_fd)


def create() -> LabState:
    """Make a new lab's directory, readable by this user only."""
    root = Path(tempfile.mkdtemp(prefix=PREFIX))
    lab_id = secrets.token_hex(16)
    (root / "id").write_text(lab_id)
    # The lock gets its final name only once it is held: another lab's start must never find it free.
    draft = root / "lock.new"
    lock_fd = os.open(draft, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock_fd, fcntl.LOCK_EX)
    draft.rename(root / "lock")
    return LabState(root, lab_id, lock_fd)


def clear_leftovers() -> None:
    """Clear what labs left whose supervisor was killed before it could clean up: processes first, then homes."""
    for root in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):  # another start clears, or the lab ends by itself
            if _is_ours(root) and _is_dead(root):
                _clear(root)


def adopt_orphans() -> None:
    """Become the parent of every process that daemonises below this one (Linux), so that none escapes unseen.

    It also means that this process must reap them, as init does on a real host: see `reap`.
    """
    if sys.platform == "linux":
        pr_set_child_subreaper = 36  # linux/prctl.h
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def reap() -> Iterator[tuple[int, int]]:
    """Collect children that have ended: pairs of process id and exit code (negative: the signal)."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def _is_ours(root: Path) -> bool:
    found = root.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _is_dead(root: Path) -> bool:
    """Tell whether nobody holds the lab's lock; a lab without a lock may just be starting."""
    try:
        lock_fd = os.open(root / "lock", os.O_RDWR)
    except FileNotFoundError:
        return time.time() - root.stat().st_mtime > _UNLOCKED_GRACE_S
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock_fd)
    return True


def _clear(root: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        lab_id = (root / "id").read_text()
        if lab_id:
            _kill_until_none(lambda: list(_marked(lab_id)))
    _remove(root)


def _marked(lab_id: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone meanwhile, or not ours to look at
            if process.uids().real == os.getuid() and _carries(process, lab_id):
                yield process


def _carries(process: psutil.Process, lab_id: str) -> bool:
    return process.environ().get(MARK, "").startswith(f"{lab_id}/")


def _descendants() -> list[psutil.Process]:
    """Find even processes that have cleared their environment; complete only after `adopt_orphans`."""
    return psutil.Process().children(recursive=True)


def _kill_until_none(find: Callable[[], list[psutil.Process]]) -> None:
    """Ask once, then kill, again and again while processes still start others; bounded."""
    for number, patience_s in ((signal.SIGTERM, _TERM_S), *[(signal.SIGKILL, _KILL_S)] * 3):
        alive = {process for process in find() if _alive(process)}
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        _wait_gone(alive, patience_s)
        if not alive:
            return


def _wait_gone(processes: set[psutil.Process], patience_s: float) -> None:
    # psutil.wait_procs does not do: it waits for ever on a zombie that was handed to us while it waited.
    deadline = time.monotonic() + patience_s
    while any(_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.005)
    for _ in reap():  # a zombie would look alive to whoever waits for its process id
        pass


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _remove(root: Path) -> None:
    """Remove a tree even where directories were made read-only; the lock goes last with the root."""
    for directory, _, _ in os.walk(root):
        with contextlib.suppress(OSError):
            Path(directory).chmod(0o700)
    shutil.rmtree(root, ignore_errors=True)
