"""What the controller's unit tests share: facts of a good host, this machine as a host, a plan with known delays."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import pytest

from deploy.errors import CommandFailed
from deploy.facts import Facts
from deploy.plan import Plan, make_plan
from deploy.playbook import load_playbook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


@pytest.fixture(scope="session")
def facts() -> Callable[..., Facts]:
    """Give facts of a host that is ready, with some of them changed."""
    good = Facts(
        home="/home/pi",
        user="pi",
        hostname="raspberrypi",
        workdir="/home/pi/.fieldlab",
        python="/home/pi/venv/bin/python",
        python_version="3.11.2",
        python_bits=64,
        system="Linux",
        platform="Linux-6.6",
        machine="aarch64",
        cpu="Raspberry Pi 4",
        cpus=4,
        memory_mb=3792,
        disk_free_mb=20000,
        writable=True,
        packages=dict.fromkeys(("flwr", "grpc", "msgspec", "numpy", "torch", "torchvision"), "1"),
        code=(),
        wall_ns=0,
    )

    def make(**changed: Any) -> Facts:
        return msgspec.structs.replace(good, **changed)

    return make


@dataclass(frozen=True)
class ThisMachine:
    """A host without a network: the same five verbs, as processes of this machine with a home of their own."""

    home: Path
    host: str = "here"

    def read(self, argv: Sequence[str], *, step: str, stdin: bytes = b"") -> str:
        return self._output(argv, step, stdin).decode()

    def run(
        self, argv: Sequence[str], *, step: str, stdin: bytes = b"", on_line: Callable[[str], None] | None = None
    ) -> str:
        if on_line is None:
            return self._output(argv, step, stdin).decode()
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd=self.home, env=self._env) as process:
            process.stdin.write(stdin)
            process.stdin.close()
            for line in process.stdout:
                on_line(line.decode().rstrip("\n"))
            said = process.stderr.read().decode()
        self._check(argv, step, process.returncode, said)
        return ""

    def put(self, stream: Iterator[bytes], argv: Sequence[str], *, step: str) -> str:
        return self._output(argv, step, b"".join(stream)).decode()

    def get(self, argv: Sequence[str], sink: BinaryIO, *, step: str) -> int:
        return sink.write(self._output(argv, step, b""))

    def close(self) -> None:
        pass

    @property
    def _env(self) -> dict[str, str]:
        return {"HOME": str(self.home), "PATH": os.defpath, "USER": "pi"}

    def _output(self, argv: Sequence[str], step: str, stdin: bytes) -> bytes:
        done = subprocess.run(argv, input=stdin, capture_output=True, cwd=self.home, env=self._env, check=False)
        self._check(argv, step, done.returncode, (done.stdout + b"\n" + done.stderr).decode(errors="replace"))
        return done.stdout

    def _check(self, argv: Sequence[str], step: str, status: int, said: str) -> None:
        if status:
            raise CommandFailed(self.host, step, argv, status=status, output=said)


@pytest.fixture
def here(tmp_path: Path) -> ThisMachine:
    (tmp_path / "home").mkdir()
    return ThisMachine(tmp_path / "home")


@pytest.fixture
def own_facts(here: ThisMachine, facts: Callable[..., Facts]) -> Facts:
    """Return facts of `here`, whose Python is this one."""
    return facts(home=str(here.home), workdir=f"{here.home}/.fieldlab", python=sys.executable)


@pytest.fixture(scope="session")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Give two clients and two trials of four rounds: without delay, and with 3 s in half of the cases."""
    file = tmp_path_factory.mktemp("plan") / "plan.yaml"
    file.write_text(
        "playbook: p\napp: flclient.apps.payload\nrounds: 4\norder: listed\ndelay: {seconds: 3}\n"
        "sweep: {delay.probability: [0, 0.5]}\n"
    )
    return make_plan(load_playbook(file), ["pi-a", "pi-b"])
