"""What a look at a host finds, and what of it stands in the way of a run. Looking changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from deploy import hostside
from deploy.errors import CommandFailed, HostError

if TYPE_CHECKING:
    from deploy.inventory import Host
    from deploy.remote.protocol import Remote

STEP = "look"
OLDEST_PYTHON = (3, 11)
LEAST_DISK_MB = 64
NEEDED = ("flwr", "grpc", "msgspec", "numpy")
"""What flserver and flclient import; the app's own needs come on top (`app_needs`)."""
REQUIREMENTS = {"flwr": "'flwr>=1.41,<2'", "grpc": "grpcio"}
"""What to ask pip for, where it is not the package's own name."""

# Finds the interpreter (a virtual environment's directory will do) and runs the script from standard input with it.
LAUNCH = """
p=$1; shift
case $p in '~/'*) p=$HOME/${p#'~/'};; esac
if [ -d "$p" ]; then p=$p/bin/python; fi
command -v "$p" >/dev/null 2>&1 || { echo "there is no Python at $p" >&2; exit 127; }
exec "$p" - "$@"
"""


class Facts(msgspec.Struct, frozen=True):
    """What `deploy.hostside.look` prints: paths are absolute, sizes in MiB; `packages` maps to a version or None."""

    home: str
    user: str
    hostname: str
    workdir: str
    python: str
    python_version: str
    python_bits: int
    system: str
    platform: str
    machine: str
    cpu: str
    cpus: int | None
    memory_mb: int | None
    disk_free_mb: int
    writable: bool
    packages: dict[str, str | None]
    code: tuple[str, ...]
    wall_ns: int
    envs: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True):
    """Something a look found to be wrong, and what would put it right."""

    level: Literal["error", "warning"]
    what: str
    fix: str


def look(host: Host, remote: Remote) -> Facts:
    """Look at a host, in one round trip; raises HostError."""
    argv = ["sh", "-c", LAUNCH, "look", host.python.path, host.workdir]
    try:
        told = remote.read(argv, step=STEP, stdin=hostside.source("look").encode())
    except CommandFailed as error:
        last = error.output.strip().splitlines()[-1:] or [f"exit status {error.status}"]
        raise HostError(host.name, STEP, f"{last[0]} (python.path in the inventory)") from error
    try:
        return msgspec.json.decode(told.strip().splitlines()[-1], type=Facts)
    except (msgspec.MsgspecError, IndexError) as error:
        raise HostError(host.name, STEP, f"an answer that cannot be understood: {told[:200]!r}") from error


def findings(facts: Facts, app: str) -> list[Finding]:
    """Return what stands in the way of a run on this host, or might."""
    found = []
    if tuple(int(part) for part in facts.python_version.split(".")[:2]) < OLDEST_PYTHON:
        found.append(_error(f"Python {facts.python_version} is too old", "install Python 3.11 or later"))
    elif missing := [name for name in (*NEEDED, *app_needs(app)) if facts.packages.get(name) is None]:
        wanted = " ".join(REQUIREMENTS.get(name, name) for name in missing)
        found.append(_error(f"{facts.python} lacks {', '.join(missing)}", f"{facts.python} -m pip install {wanted}"))
    if facts.python_bits != 64:  # noqa: PLR2004 - the number says it
        fix = "install a 64-bit system: flwr and torch have no wheels for 32 bits"
        found.append(_error("this Python is a 32-bit one", fix))
    if not facts.writable:
        found.append(_error(f"{facts.workdir} cannot be written", "choose another workdir in the inventory"))
    if facts.disk_free_mb < LEAST_DISK_MB:
        fix = f"make room: at least {LEAST_DISK_MB} MB at {facts.workdir}"
        found.append(_error(f"only {facts.disk_free_mb} MB of disk are free", fix))
    return found


def app_needs(app: str) -> tuple[str, ...]:
    """Return the packages that an embedded app imports beyond flwr."""
    return () if app.endswith(".payload") else ("torch", "torchvision")


def _error(what: str, fix: str) -> Finding:
    return Finding("error", what, fix)
