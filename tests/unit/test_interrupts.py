"""However the command ends, by Ctrl-C, SIGTERM or SIGKILL, nothing that it started on a virtual lab's hosts goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MARK = "FIELDLAB_VIRTUAL_HOST"
LAB = "lab: v\nprovider: virtual\nclients: 2\n"
LONG = "playbook: long\napp: flclient.apps.payload\nrun_config: {payload-bytes: 1000}\nrounds: 1000000\n"


@dataclass(frozen=True)
class Command:
    """A `deploy up` that runs in a process group of its own, and where its virtual hosts and its runs are."""

    process: subprocess.Popen[str]
    place: Path

    def wait_for(self, words: str) -> None:
        """Read its output until a line holds these words."""
        assert self.process.stdout is not None
        read = []
        for line in self.process.stdout:
            read.append(line)
            if words in line:
                return
        pytest.fail("it ended before that:\n" + "".join(read))

    def ended(self) -> tuple[int, str]:
        """Wait for its end; return exit status and stderr."""
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said

    def on_hosts(self) -> list[psutil.Process]:
        """Return the processes of its hosts, which are known by their mark and by their home."""
        return [process for process in psutil.process_iter() if _is_on_a_host(process, self.place)]

    def manifest(self) -> dict[str, object]:
        (path,) = (self.place / "runs").rglob("manifest.json")
        return json.loads(path.read_text())


def _is_on_a_host(process: psutil.Process, place: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        env = process.environ()
        return MARK in env and env.get("HOME", "").startswith(str(place))
    return False


def left_of(processes: list[psutil.Process], patience_s: float) -> list[psutil.Process]:
    """Return those that have not ended within some seconds; one that nobody has collected has ended."""
    _, alive = psutil.wait_procs(processes, timeout=patience_s)
    return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def command(tmp_path) -> Iterator[Command]:
    """Start a campaign of a million rounds, and wait until it runs."""
    (tmp_path / "lab.yaml").write_text(LAB)
    (tmp_path / "long.yaml").write_text(LONG)
    code = "from deploy.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "up", "lab.yaml", "--playbook", "long.yaml"],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    with process:
        try:
            one = Command(process, tmp_path)
            one.wait_for("running")
            yield one
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_the_hosts_and_keeps_the_run(command, number):
    """Exit status 130, one line, no traceback; the logs were pulled, and the manifest says that it was interrupted."""
    processes = command.on_hosts()
    assert len(processes) >= 3, "a server and two clients"
    os.killpg(command.process.pid, number)
    status, said = command.ended()
    assert (status, said) == (130, "interrupted: everything that was started is stopped\n")
    assert left_of(processes, 0) == command.on_hosts() == []
    manifest = command.manifest()
    assert (manifest["status"], manifest["error"]) == ("interrupted", None)
    pulled = {path.parent.name for path in (command.place / "runs").rglob("events.jsonl")}
    assert pulled == {"server", "client-1", "client-2"}


def test_a_killed_command_leaves_nothing_behind(command):
    """SIGKILL lets nobody clean up: the hosts notice that their controller is gone. The run directory stays."""
    processes = command.on_hosts()
    assert len(processes) >= 3, "a server and two clients"
    servers = psutil.Process(command.process.pid).children()
    command.process.kill()
    status, _ = command.ended()
    assert status == -signal.SIGKILL
    assert left_of([*processes, *servers], 20) == command.on_hosts() == []
    assert not list(command.place.glob("fieldlab-virtual-*")), "the hosts' homes"
    assert command.manifest()["status"] == "running"


def test_a_second_interrupt_does_not_cut_the_stopping_short(command: Command) -> None:
    """Impatience leaves nothing running: while it stops and pulls, one more Ctrl-C is answered with a word."""
    on_hosts = command.on_hosts()
    command.process.send_signal(signal.SIGINT)
    command.wait_for("stopping")
    command.process.send_signal(signal.SIGINT)
    command.wait_for("interrupt once more to leave it as it is")
    status, said = command.ended()
    assert status == 130
    assert "everything that was started is stopped" in said
    assert left_of(on_hosts, 10) == []
    assert command.manifest()["status"] == "interrupted"
