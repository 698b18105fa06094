"""The system calls of Linux that Python 3.11 has no names for; each raises OSError with the arguments in its text."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/sched.h
NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_PIDS, NEW_NET = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000

# linux/mount.h
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT = 1, 2, 4, 8, 32
BIND, RECURSIVE, PRIVATE = 4096, 16384, 1 << 18
_DETACH = 2

# linux/prctl.h, linux/capability.h
_PARENT_DEATH_SIGNAL, _DROP_CAPABILITY = 1, 24
MODULES, RAW_IO, SET_CLOCK, MAKE_DEVICES = 16, 17, 25, 27


def unshare(kinds: int) -> None:
    """Leave the namespaces of these kinds for new ones; of process ids, the next child is the first process."""
    _call("unshare", ctypes.c_int(kinds))


@contextlib.contextmanager
def inside(namespace: int, own: int, kind: int) -> Iterator[None]:
    """Enter the namespace of an open file for a with-block; `own` is an open file of the one to come back to."""
    _call("setns", ctypes.c_int(namespace), ctypes.c_int(kind))
    try:
        yield
    finally:
        _call("setns", ctypes.c_int(own), ctypes.c_int(kind))


def come_back(namespace: int, kind: int) -> None:
    """Enter the namespace of an open file for good."""
    _call("setns", ctypes.c_int(namespace), ctypes.c_int(kind))


def mount(kind: str, target: Path, options: str = "", flags: int = 0) -> None:
    """Mount a new file system of this kind."""
    _mount(kind, target, kind, flags, options)


def bind(source: Path, target: Path, flags: int = 0) -> None:
    """Show a file or directory at another place too; other flags (READ_ONLY) need a second call."""
    _mount(str(source), target, None, BIND, "")
    if flags:
        _mount(None, target, None, BIND | REMOUNT | flags, "")


def make_private() -> None:
    """Keep every later mount of this process out of the machine's mount table."""
    _mount(None, Path("/"), None, RECURSIVE | PRIVATE, "")


def change_root(root: Path) -> None:
    """Make a mounted directory the root of this process's mount namespace, and let go of the old one."""
    os.chdir(root)
    # pivot_root(2), "NOTES": with the same directory twice, the old root is stacked on the new one.
    _call("pivot_root", b".", b".")
    _call("umount2", b".", ctypes.c_int(_DETACH))
    os.chdir("/")


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that made it ends."""
    _call("prctl", ctypes.c_int(_PARENT_DEATH_SIGNAL), *_longs(signal.SIGKILL, 0, 0, 0))


def drop_capability(number: int) -> None:
    """Take a capability from everything that this process will execute; unknown to this kernel is fine."""
    try:
        _call("prctl", ctypes.c_int(_DROP_CAPABILITY), *_longs(number, 0, 0, 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _mount(source: str | None, target: Path, kind: str | None, flags: int, options: str) -> None:
    _call(
        "mount",
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        options.encode() or None,
    )


def _longs(*numbers: int) -> tuple[ctypes.c_ulong, ...]:
    return tuple(ctypes.c_ulong(number) for number in numbers)


def _call(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library[name](*arguments) == -1:
        number = ctypes.get_errno()
        shown = ", ".join(_shown(argument) for argument in arguments)
        raise OSError(number, f"{os.strerror(number)} at {name}({shown})")


def _shown(argument: object) -> str:
    if isinstance(argument, bytes):
        return os.fsdecode(argument)
    return str(getattr(argument, "value", argument))
