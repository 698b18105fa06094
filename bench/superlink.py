"""Flower's deployment engine on the same work: a SuperLink, a SuperNode for each client, `flwr run`, all on loopback.

Without TLS, with a FLWR_HOME of its own, and with an app without dependencies, so that nothing is fetched: `flwr` looks
for no newer version of itself, and the SuperLink installs nothing.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from outcome import timed
from processes import REPOSITORY, Fleet
from start_server import free_port

if TYPE_CHECKING:
    from outcome import Outcome, Work

APP = Path(__file__).with_name("superlink_app.py")
PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "payload"
version = "1.0.0"
description = "Bytes there and back"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "superlink_app:server"
clientapp = "superlink_app:client"

[tool.flwr.app.config]
payload-bytes = {work.size_bytes}
num-server-rounds = {rounds}
clients = {work.clients}
result = "{result}"
"""
CONNECTION = """\
[superlink]
default = "bench"

[superlink.bench]
address = "{address}"
insecure = true
"""


def run(work: Work) -> Outcome:
    """Run once; raises BenchmarkFailed."""
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        home, result = Path(place), Path(place) / "rounds.json"
        address = f"127.0.0.1:{free_port()}"
        _write_app(home / "app", work, result)
        (home / "config.toml").write_text(CONNECTION.format(address=address))
        # They start each other by name: a SuperLink its ServerApp, a SuperNode its ClientApps.
        environment = {"FLWR_HOME": str(home), "HOME": str(home), "PATH": f"{programs}:/usr/bin:/bin"}
        with Fleet(REPOSITORY, environment) as fleet:
            _start(fleet, home, work, address)
            fleet.call(home / "run", [str(programs / "flwr"), "run", str(home / "app"), "bench"])
            fleet.await_true(result.exists, "result of the ServerApp")
            return timed(work, result, fleet.usage)


def _start(fleet: Fleet, home: Path, work: Work, address: str) -> None:
    """Start the SuperLink, wait until it listens, and start the SuperNodes, which connect by themselves."""
    programs, port = Path(sys.executable).parent, address.rpartition(":")[2]
    link = [str(programs / "flower-superlink"), "--insecure", "--port", port]
    fleet.start(home / "superlink", [*link, "--disable-runtime-dependency-installation"])
    said = home / "superlink"
    fleet.await_true(lambda: any("running on" in (said / one).read_text() for one in ("stdout", "stderr")), "SuperLink")
    for number in range(work.clients):
        node = [str(programs / "flower-supernode"), "--insecure", "--superlink", address, "--port", str(free_port())]
        fleet.start(home / f"supernode-{number}", [*node, "--node-config", f"partition-id={number}"])


def _write_app(directory: Path, work: Work, result: Path) -> None:
    directory.mkdir()
    project = PROJECT.format(work=work, rounds=work.warmup + work.rounds, result=result)
    (directory / "pyproject.toml").write_text(project)
    shutil.copy(APP, directory)
