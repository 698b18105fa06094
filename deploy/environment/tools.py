"""uv and pip as the controller runs them: argv lists, their own configuration, one error that says what they said."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from uv import find_uv_bin

from deploy.environment.target import MACOS
from deploy.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deploy.environment.lock import Lock
    from deploy.environment.target import Target

_TAIL_LINES = 10
_WHEELS = "--only-binary=:all:"
"""Nothing is built from source: a Raspberry Pi would take hours, and this machine is not the host."""


def uv_program() -> str:
    """Return the path of uv on this machine; raises DeployError."""
    try:
        return find_uv_bin()
    except FileNotFoundError as error:
        raise DeployError("uv is missing on this machine: pip install uv") from error


def compile_command(target: Target, requirements: Path, lock: Path, *, cpu_torch: bool) -> list[str]:
    """Return the command that resolves requirements for a kind of host.

    It prefers the pins that the lock's file holds already. With `cpu_torch`, uv takes PyTorch's CPU builds from the
    index that it knows them to be at, and its output says which that is.
    """
    torch = ["--torch-backend", "cpu", "--emit-index-annotation"] if cpu_torch else []
    return [
        *(uv_program(), "pip", "compile", "--quiet", "--generate-hashes", _WHEELS, "--no-header", "--no-annotate"),
        *("--python", sys.executable, "--python-platform", target.uv_platform, "--python-version", target.python),
        *torch,
        *("--output-file", str(lock), str(requirements)),
    ]


def download_command(target: Target, into: Path, what: Sequence[str]) -> list[str]:
    """Return the command by which pip downloads wheels for a kind of host, as the user's configuration of pip says."""
    platforms = [word for tag in target.pip_platforms for word in ("--platform", tag)]
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", _WHEELS, "--disable-pip-version-check"),
        *platforms,
        *("--python-version", target.python, "--implementation", "cp", "--dest", str(into), *what),
    ]


def wheels_of(lock: Lock, file: Path) -> list[str]:
    """Return what `download_command` is asked for, to get all wheels of a lock that is written in a file."""
    extra = ["--extra-index-url", lock.torch_index] if lock.torch_index else []
    return ["--require-hashes", *extra, "--requirement", str(file)]


def run_tool(argv: Sequence[str], where: Path, what: str) -> None:
    """Run a command in a directory where no project's configuration is; raises DeployError with its last lines."""
    # uv takes the macOS that a wheel may ask for from here.
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS, "NO_COLOR": "1"}
    done = subprocess.run(
        argv, cwd=where, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        told = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        tail = "\n".join(f"    {line}" for line in told[-_TAIL_LINES:])
        raise DeployError(f"{what} failed on this machine\n{tail}")
