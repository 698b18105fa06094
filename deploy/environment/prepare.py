"""Sees to it that a host has the environment that a campaign needs: looks it up, or makes it there by uv."""

from __future__ import annotations

import posixpath
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from deploy import hostside
from deploy.environment.requirements import distribution
from deploy.environment.target import Target
from deploy.errors import CommandFailed, ConnectionLost, DeployError, HostError
from deploy.facts import NEEDED, OLDEST_PYTHON
from deploy.inventory import DEFAULT_PYTHON
from deploy.store import push_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deploy.environment.kit import Kit
    from deploy.environment.lock import Lock
    from deploy.facts import Facts
    from deploy.inventory import Host
    from deploy.remote.protocol import Remote

    Say = Callable[[str], None]

STEP = "python"
BROUGHT_PYTHON = "3.12"
"""What uv brings to a host without a Python that is new enough, if the inventory does not say."""
_TAIL_LINES = 10
_TRIES = 3
_BITS = 64
_SHARES = 10


@dataclass(frozen=True)
class Interpreter:
    """The Python that an environment is made with: a path or, for uv to find or bring, a version.

    `exact` is its full version where that is known.
    """

    request: str
    version: str
    exact: str | None = None


def prepare_python(host: Host, remote: Remote, facts: Facts, kit: Kit, say: Say) -> Facts:
    """Return the facts as they are with the Python that the inventory asks for, which is made if need be.

    `say` is told what goes on, in words. Raises HostError.
    """
    if host.python.manager == "existing":
        return facts
    interpreter = choose(host, facts)
    target = Target(facts.system, facts.machine, interpreter.version)
    if not target.supported:
        why = f"flwr needs Linux or macOS on 64 bits (x86_64, aarch64, arm64); this is {facts.system} {facts.machine}"
        raise HostError(host.name, STEP, why)
    work = _Preparation(host, remote, facts, kit, say)
    try:
        lock = kit.lock(target, cpu_torch=host.python.torch == "cpu" and facts.system == "Linux")
        return work.result(lock, interpreter)
    except HostError:
        raise
    except DeployError as error:  # of the kit, which knows no host
        raise HostError(host.name, STEP, str(error)) from error
    except OSError as error:  # of the kit too: what a host does wrong is a HostError
        raise HostError(host.name, STEP, f"on this machine: {error.filename}: {error.strerror}") from error


def choose(host: Host, facts: Facts) -> Interpreter:
    """Return the Python to make an environment with; raises HostError if there is none and none can be brought."""
    numbers = tuple(int(part) for part in facts.python_version.split(".")[:2] if part.isdecimal())
    minor = ".".join(str(part) for part in numbers)
    wanted = host.python.version
    # A host without a Python of its own may have been looked at by that of an environment that was made before.
    own = facts.python if not facts.python.startswith(f"{facts.workdir}/env/") else ""
    if own and numbers >= OLDEST_PYTHON and facts.python_bits == _BITS and wanted in {None, minor}:
        return Interpreter(own, minor, facts.python_version)
    if host.python.manager == "uv" and host.python.path == DEFAULT_PYTHON:
        version = wanted or BROUGHT_PYTHON
        return Interpreter(version, version)
    found = f"{facts.python} is a {facts.python_bits}-bit Python {facts.python_version}" if own else "there is none"
    least = ".".join(str(part) for part in OLDEST_PYTHON)
    fix = "install one (Debian 12 has it), name one by python.path, or let python.manager: uv bring one"
    raise HostError(host.name, STEP, f"a 64-bit Python {least} or later is needed, and {found}: {fix}")


@dataclass(frozen=True)
class _Preparation:
    """One host's preparation."""

    host: Host
    remote: Remote
    facts: Facts
    kit: Kit
    say: Say

    def result(self, lock: Lock, interpreter: Interpreter) -> Facts:
        """Return the facts with the lock's environment, which is made unless it is there."""
        digest = lock.digest(interpreter.exact or interpreter.version)
        place = f"{self.facts.workdir}/env/{digest}"
        version = interpreter.exact
        if digest not in self.facts.envs:
            version = self._make(lock, interpreter, digest)
            self.say(f"environment {digest} is made, Python {version}")
        elif version is None:
            version = self.remote.read(["cat", f"{place}/.complete"], step=STEP).strip()
        names = dict.fromkeys((*NEEDED, "torch", "torchvision", *self.facts.packages))
        return msgspec.structs.replace(
            self.facts,
            python=f"{place}/bin/python",
            python_version=version,
            python_bits=_BITS,
            trouble="",
            packages={name: lock.versions.get(distribution(name)) for name in names},
            envs=tuple(sorted({*self.facts.envs, digest})),
        )

    def _make(self, lock: Lock, interpreter: Interpreter, digest: str) -> str:
        """Push what is missing, make the environment, and return its Python's version."""
        uv, workdir = self.kit.uv(lock.target), self.facts.workdir
        if any(name.startswith("nvidia-") for name in lock.versions):
            self.say("PyTorch comes with CUDA, gigabytes of it: python.torch: cpu in the inventory takes the CPU build")
        if self._offline:
            self.say(f"wheels for {lock.target}")
        wheels = self.kit.wheels(lock) if self._offline else ()
        push_files(self.remote, workdir, [uv, *wheels], shares(self.say, "uv and wheels" if wheels else "uv"))
        argv = [
            *(("env", "UV_OFFLINE=1") if self._offline else ()),
            *("sh", "-c", hostside.source("environment.sh"), "environment", workdir, digest, uv.place(workdir)),
            interpreter.request,
            *sync_options(lock, [posixpath.dirname(wheel.place(workdir)) for wheel in wheels]),
        ]
        return self._run(argv, lock, interpreter)

    @property
    def _offline(self) -> bool:
        return self.host.python.manager == "wheelhouse"

    def _run(self, argv: Sequence[str], lock: Lock, interpreter: Interpreter) -> str:
        """Run the host's script and return the version of Python that it tells.

        A lost connection is no reason to give up: what uv has downloaded it does not download again.
        """
        told = _Told(self.say)
        self.say(f"installing {len(lock.versions)} packages for Python {interpreter.version}")
        for tries_left in reversed(range(_TRIES)):
            try:
                self.remote.run(argv, step=STEP, stdin=lock.text.encode(), on_line=told.line)
                break
            except ConnectionLost:
                if not tries_left:
                    raise
            except CommandFailed as error:
                raise HostError(self.host.name, STEP, self._why(told, interpreter)) from error
        if told.complete is None:
            raise HostError(self.host.name, STEP, self._why(told, interpreter))
        return told.complete

    def _why(self, told: _Told, interpreter: Interpreter) -> str:
        if told.python is None and interpreter.exact is None:
            why = (
                f"uv could neither find Python {interpreter.version} on the host nor bring it, which needs internet"
                " there (or install it, or name another by python.path)"
            )
        elif told.python is None:
            why = f"uv could not make a virtual environment with {interpreter.request}"
        elif self._offline:
            why = "uv could not install the wheels that were pushed"
        else:
            why = "uv could not install the packages (for a host without internet: python.manager: wheelhouse)"
        return "\n".join((why, *(f"    {line}" for line in told.last)))


class _Told:
    """What the host's script tells: passed on as it comes, the last lines of it kept."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.last: deque[str] = deque(maxlen=_TAIL_LINES)
        self.python: str | None = None
        self.complete: str | None = None

    def line(self, line: str) -> None:
        """Take a line."""
        match line.split():
            case ["python", version]:
                self.python = version
            case ["complete", version]:
                self.complete = version
            case ["+", _]:  # a package that uv installed: there are fifty, and the lock says the same
                pass
            case [_, *_]:
                self.last.append(line)
                self._say(line.strip())


def sync_options(lock: Lock, wheelhouse: Sequence[str]) -> list[str]:
    """Return the options of `uv pip sync` that say where packages come from: these directories, or an index."""
    if wheelhouse:
        return ["--no-index", *(word for directory in wheelhouse for word in ("--find-links", directory))]
    return ["--torch-backend", "cpu"] if lock.torch_index else []


def shares(say: Say, what: str) -> Callable[[int, int], None]:
    """Return a report of progress in bytes that says every tenth of it."""
    told = -1

    def report(done: int, total: int) -> None:
        nonlocal told
        if (share := _SHARES * done // total) > told:
            told = share
            say(f"{what}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    return report
