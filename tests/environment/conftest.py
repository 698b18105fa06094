"""A host that OpenSSH serves on loopback, and a kit whose cache all tests here share."""

from __future__ import annotations

import functools
import os
import platform
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from deploy.app import embedded
from deploy.environment import Kit
from deploy.environment.target import Target
from deploy.errors import DeployError
from deploy.facts import Facts, look
from deploy.inventory import Host, Python, Ssh
from deploy.remote import ssh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deploy.remote.protocol import Remote

PAYLOAD = embedded("flclient.apps.payload")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""How this machine reaches an index, the host must too."""


@dataclass
class Counting:
    """A Remote that counts what is asked of the one behind it."""

    remote: Remote
    verbs: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        if name in {"read", "run", "put", "get"}:
            self.verbs.append(name)
        return getattr(self.remote, name)


@dataclass
class Station:
    """One host, its connection, and what was said while it was prepared."""

    host: Host
    remote: Counting
    said: list[str] = field(default_factory=list)

    def look(self) -> Facts:
        return look(self.host, self.remote)


@pytest.fixture
def station(openssh, tmp_path: Path) -> Iterator[Callable[..., Station]]:
    """Give hosts: with keys of `python`, and options for their sshd."""
    remotes = []

    def start(workdir: Path | None = None, environment: str = "", force: str = "", **python: str) -> Station:
        certificates = [f"{name}={os.environ[name]}" for name in CERTIFICATES if name in os.environ]
        variables = " ".join([*certificates, *environment.split()])
        options = {key: value for key, value in (("SetEnv", variables), ("ForceCommand", force)) if value}
        host = Host(
            name="pi-a",
            role="client",
            host="127.0.0.1",
            ssh=Ssh(
                port=openssh.start(**options),
                identity_file=str(openssh.identity_file),
                known_hosts=str(openssh.known_hosts),
            ),
            python=Python(**{"manager": "uv", "path": sys.executable} | python),
            workdir=str(workdir or tmp_path / "work"),
        )
        remotes.append(ssh.connect(host))
        return Station(host, Counting(remotes[-1]))

    yield start
    for remote in remotes:
        remote.close()


@pytest.fixture(scope="session")
def here() -> Target:
    """Return this machine as a kind of host."""
    return Target(platform.system(), platform.machine(), f"3.{sys.version_info.minor}")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@functools.cache
def _no_index(root: Path, target: Target) -> str:
    try:
        small_kit(root).lock(target)
    except DeployError as error:
        return str(error)
    return ""


def small_kit(root: Path) -> Kit:
    """Return a kit of two packages of which one depends on the system."""
    kit = Kit(PAYLOAD, root=root)
    kit.requirements = ("msgspec>=0.19", "psutil>=6.0")
    return kit


@pytest.fixture
def small(cache: Path, here: Target) -> Kit:
    """Give a kit that is quickly got ready."""
    if reason := _no_index(cache, here):
        pytest.skip(f"no package index can be reached: {reason}")
    return small_kit(cache)


@pytest.fixture
def kit(cache: Path, small: Kit) -> Kit:  # noqa: ARG001 - an index can be reached
    """Give the kit of the payload app."""
    return Kit(PAYLOAD, root=cache)
