"""What a look at a host finds, and what of it stands in the way of a run. Looking changes nothing.

The look of every command is here; what only `deploy check` asks for is in `deploy.health`.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec
from packaging.utils import canonicalize_name

from deploy import hostside
from deploy.errors import CommandFailed, HostError
from flcommon.decoding import decoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from packaging.requirements import Requirement

    from deploy.app import App
    from deploy.inventory import Host
    from deploy.remote.protocol import Remote

T = TypeVar("T", bound=msgspec.Struct)

STEP = "look"
OLDEST_PYTHON = (3, 11)
LEAST_DISK_MB = 64
MACHINES = ("x86_64", "amd64", "aarch64", "arm64")
"""Processors that flwr and torch have wheels for, in the words of uname(1)."""
NEEDED = ("flwr", "grpc", "msgspec", "numpy")
"""What flserver and flclient import; the app's own needs come on top (`app_needs`)."""
REQUIREMENTS = {"flwr": "'flwr>=1.41,<2'", "grpc": "grpcio"}
"""What to ask pip for, where it is not the package's own name."""
BROUGHT = {"grpcio": "grpc"}
"""The packages of distributions that have another name."""
IDENTITY = "flcommon.identity"
"""The module of ours that the look takes along."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What `deploy.hostside.look` prints: paths are absolute, sizes in MiB; `packages` maps to a version or None.

    `python` is the interpreter that has looked, empty if there is none; `trouble` says what is wrong with the one of
    the inventory, if anything is. `envs` names the complete environments below the work directory, `running` the
    directories of our processes that are alive; `csr` is the host's certificate request (flcommon.credentials) if that
    and its private key are as they should be. `stack` is the same for two logins that share their network interfaces.
    """

    home: str
    user: str
    hostname: str
    workdir: str
    python: str
    python_version: str
    python_bits: int
    trouble: str = ""
    system: str
    platform: str
    machine: str
    cpu: str
    cpus: int | None
    memory_mb: int | None
    disk_free_mb: int
    writable: bool
    read_only: bool = False
    packages: dict[str, str | None]
    code: tuple[str, ...]
    envs: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    csr: str = ""
    interfaces: tuple[str, ...] = ()
    stack: str = ""
    wall_ns: int

    @property
    def our_python(self) -> str:
        """The interpreter that can run our own modules: this one, or one of an environment that was made here."""
        if self.packages.get("msgspec") or not self.envs:
            return self.python
        return f"{self.workdir}/env/{self.envs[-1]}/bin/python"


class Finding(msgspec.Struct, frozen=True):
    """Something a look found to be wrong, and what would put it right: if it can be, a command to type on the host.

    An error keeps a run from starting, a warning spoils what it measures, a note is about what is not used yet.
    """

    level: Literal["error", "warning", "note"]
    code: str
    what: str
    fix: str


def look(host: Host, remote: Remote, distributions: Sequence[str] = ()) -> Facts:
    """Look at a host, in one round trip, with or without a Python there; raises HostError.

    `distributions` are looked for beside those that every app needs (`app_distributions`).
    """
    return understood(remote, ask(host, remote, hostside.program("look", IDENTITY), ("", *distributions)), Facts)


def look_at_ours(host: Host, remote: Remote) -> Facts:
    """Look at a host whose Python is then asked about our processes; raises HostError if they need one and it is gone.

    A host that has no code of ours has no process of ours either.
    """
    facts = look(host, remote)
    if facts.code and not facts.our_python:
        raise HostError(host.name, STEP, f"{facts.trouble} (python.path in the inventory)")
    return facts


def ask(host: Host, remote: Remote, script: str, words: Sequence[str] = ("",)) -> str:
    """Run a look's script by the host's Python, or what stands for it where there is none, and return its answer.

    Only a host whose Python does not do is looked at thoroughly, by a second command: the first spares all others a
    process.
    """
    rest = (script, host.python.path, host.workdir, *words)
    try:
        return remote.read(_looking("fast", *rest), step=STEP)
    except CommandFailed:
        pass
    try:
        return remote.read(_looking("thorough", *rest), step=STEP)
    except CommandFailed as error:
        last = error.output.strip().splitlines()[-1:] or ["it said nothing"]
        raise HostError(host.name, STEP, f"{last[0]} (exit status {error.status})") from error


def _looking(*words: str) -> list[str]:
    return ["sh", "-c", hostside.source("look.sh"), "look", *words]


def understood(remote: Remote, told: str, kind: type[T], step: str = STEP) -> T:
    """Return the last line of an answer as what it should be; raises HostError for anything else."""
    try:
        return decoded(msgspec.json.Decoder(kind).decode, told.strip().splitlines()[-1].encode())
    except (msgspec.MsgspecError, IndexError) as error:
        raise HostError(remote.host, step, f"an answer that cannot be understood: {told[:200]!r}") from error


def findings(facts: Facts, app: App, manager: str = "existing") -> list[Finding]:
    """Return what stands in the way of a run on this host; `manager` (python.manager) will prepare what it can."""
    found = _machine(facts)
    # Where nothing has wheels, what pip should install is no advice.
    found += [one for one in _python(facts, app, manager) if not found or one.code != "packages"]
    if not facts.writable:
        found.append(_not_writable(facts))
    if facts.disk_free_mb < LEAST_DISK_MB:
        fix = f"make room: at least {LEAST_DISK_MB} MB at {facts.workdir} (df -h shows where)"
        found.append(_error("disk", f"only {facts.disk_free_mb} MB of disk are free", fix))
    return found


def app_needs(app: App) -> tuple[str, ...]:
    """Return the packages that an embedded app imports beyond flwr; other apps say themselves what they need."""
    return ("torch", "torchvision") if app.embedded and not app.name.endswith(".payload") else ()


def app_distributions(app: App) -> tuple[str, ...]:
    """Return the names of the distributions that an app says it needs, as a look is asked for them."""
    known = {*BROUGHT, *NEEDED, "torch", "torchvision"}
    return tuple(
        dict.fromkeys(name for one in app.requirements() if (name := canonicalize_name(one.name)) not in known)
    )


def uses_torch(app: App) -> bool:
    """Whether an app trains with PyTorch."""
    return "torch" in (*app_needs(app), *(canonicalize_name(one.name) for one in app.requirements()))


def pip(facts: Facts, wanted: Sequence[str]) -> str:
    """Return the command that installs packages, by pip's names, for the host's Python."""
    return f"{facts.python} -m pip install {' '.join(wanted)}"


def _machine(facts: Facts) -> list[Finding]:
    """Return what no Python can put right."""
    if facts.machine not in MACHINES:
        fix = f"use a 64-bit system ({_SIXTY_FOUR[facts.machine.startswith('arm')]})"
        return [_error("machine", f"flwr and torch have no wheels for {facts.machine}", fix)]
    if facts.python_bits == 32:  # noqa: PLR2004 - the number says it
        fix = f"install a 64-bit system ({_SIXTY_FOUR[facts.machine in ('aarch64', 'arm64')]}), or a 64-bit Python"
        return [_error("bits", "this Python is a 32-bit one: flwr and torch have no wheels for it", fix)]
    return []


_SIXTY_FOUR = {True: "64-bit Raspberry Pi OS", False: "x86-64 or aarch64"}


def _python(facts: Facts, app: App, manager: str) -> list[Finding]:
    """Return what is wrong with Python and its packages, as far as nobody will prepare them.

    The one place that knows what `python.manager` takes care of: `uv` brings Python and packages, `wheelhouse` brings
    packages for a Python that is there, `existing` changes nothing.
    """
    if manager == "uv":
        return []
    if version(facts) and version(facts) < OLDEST_PYTHON:
        return [_error("python", f"Python {facts.python_version} is too old", _NEWER)]
    if facts.trouble or not facts.python:
        return [_error("python", facts.trouble or "there is no Python", _NEWER)]
    if manager == "wheelhouse":
        return []
    missing = {
        name: REQUIREMENTS.get(name, name) for name in (*NEEDED, *app_needs(app)) if not facts.packages.get(name)
    }
    unmet = {
        _lack(facts, one): shlex.quote(_without_marker(one))
        for one in app.requirements()
        if _applies(facts, one) and not _is_met(facts, one) and _package(one) not in missing
    }
    if not missing and not unmet:
        return []
    what = f"{facts.python} lacks {', '.join((*missing, *unmet))}"
    return [_error("packages", what, pip(facts, (*missing.values(), *unmet.values())))]


def _package(requirement: Requirement) -> str:
    """Return what `Facts.packages` calls a requirement's distribution."""
    name = canonicalize_name(requirement.name)
    return BROUGHT.get(name, name)


def _is_met(facts: Facts, requirement: Requirement) -> bool:
    version = facts.packages.get(_package(requirement))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _lack(facts: Facts, requirement: Requirement) -> str:
    """Say what is missing, and which version is there instead."""
    there = facts.packages.get(_package(requirement))
    return f"{requirement.name}{requirement.specifier}" + (f" (it has {there})" if there else "")


def _without_marker(requirement: Requirement) -> str:
    return str(requirement).partition(";")[0].strip()


def _applies(facts: Facts, requirement: Requirement) -> bool:
    """Whether a requirement's marker holds on the host."""
    return requirement.marker is None or requirement.marker.evaluate(
        {
            "platform_machine": facts.machine,
            "platform_system": facts.system,
            "sys_platform": facts.system.lower(),
            "python_version": ".".join(facts.python_version.split(".")[:2]),
            "python_full_version": facts.python_version,
        }
    )


_NEWER = (
    "install Python 3.11 or later (Debian 12, Raspberry Pi OS 12: sudo apt-get install python3-venv;"
    " macOS: brew install python@3.12), or set python.path in the inventory to one"
)


def version(facts: Facts) -> tuple[int, ...]:
    """Return the first two numbers of the host's Python version; nothing if there is no Python."""
    parts = facts.python_version.split(".")[:2]
    return tuple(int(part) for part in parts if part.isdigit())


def _not_writable(facts: Facts) -> Finding:
    if facts.read_only:
        fix = (
            "sudo mount -o remount,rw / (or the file system that holds it), or choose another workdir in the inventory"
        )
        return _error("workdir", f"{facts.workdir} is on a file system that is mounted read-only", fix)
    fix = (
        f"sudo install -d -o {facts.user} {facts.workdir}, or choose another workdir in the inventory"
        f" that {facts.user} can write"
    )
    return _error("workdir", f"{facts.workdir} cannot be written", fix)


def _error(code: str, what: str, fix: str) -> Finding:
    return Finding("error", code, what, fix)
