"""What all rings of tests share: flwr's idea of whose process this is, and OpenSSH's own servers on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from flcommon import flower

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long an example takes says more of what else this machine does than of the code: timed claims are bench/'s.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SSHD = shutil.which("sshd", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class OpenSsh:
    """OpenSSH servers that this user runs on loopback: one key pair opens all, one host key names all.

    `stack` ends them; `known_hosts` holds the host key of every server that was started.
    """

    place: Path
    stack: contextlib.ExitStack

    @property
    def identity_file(self) -> Path:
        return self.place / "user_key"

    @property
    def known_hosts(self) -> Path:
        return self.place / "known_hosts"

    def start(self, **options: object) -> int:
        """Start one more server, with options of sshd_config(5), and return its port once it accepts."""
        return self.stack.enter_context(self._server(options))

    def free_port(self) -> int:
        with socket.create_server(("127.0.0.1", 0)) as free:
            return free.getsockname()[1]

    @contextlib.contextmanager
    def _server(self, changed: dict[str, object]) -> Iterator[int]:
        port = self.free_port()
        options = {
            "ListenAddress": f"127.0.0.1:{port}",
            "HostKey": self.place / "host_key",
            "AuthorizedKeysFile": self.place / "authorized_keys",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "no",
            **changed,
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        with subprocess.Popen([SSHD, "-D", "-e", "-f", "/dev/null", *words], stderr=subprocess.PIPE) as process:
            try:
                for line in process.stderr:
                    if b"Server listening" in line:
                        break
                else:
                    pytest.fail("sshd did not start")
                self._know(port)
                yield port
            finally:
                process.terminate()

    def _know(self, port: int) -> None:
        key = " ".join((self.place / "host_key.pub").read_text().split()[:2])
        with self.known_hosts.open("a") as file:
            file.write(f"[127.0.0.1]:{port} {key}\n")


@pytest.fixture
def openssh(tmp_path: Path) -> Iterator[OpenSsh]:
    """Give OpenSSH's own server, as many of them as a test starts."""
    if SSHD is None:
        pytest.skip("OpenSSH's sshd is not installed (Debian: openssh-server)")
    place = tmp_path / "openssh"
    place.mkdir()
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / key], check=True)
    (place / "authorized_keys").write_text((place / "user_key.pub").read_text())
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's privilege separation directory
    with contextlib.ExitStack() as stack:
        yield OpenSsh(place, stack)


@pytest.fixture
def flower_identity() -> Iterator[None]:
    """Be run 5, node 1, as flserver is in trial 3; put back what was said before."""
    names = ("_run_id", "_task_id", "_node_id")
    before = [getattr(flower.TaskIdentity, name) for name in names]
    flower.set_identity(5, flower.SERVER_NODE_ID)
    yield
    for name, value in zip(names, before, strict=True):
        setattr(flower.TaskIdentity, name, value)
