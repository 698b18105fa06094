"""A process on a host, as the controller drives it: start, watch, stop, pull."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import pytest

from deploy.bundle import code_directory, make_bundle, push
from deploy.errors import CommandFailed
from deploy.facts import look
from deploy.inventory import Host, Inventory, Python, Ssh
from deploy.remote.fake import FakeRemote
from deploy.takedown import take_down
from deploy.worker import PULLED, PULLED_ENDS, Worker, running, stop
from flcommon.job import AppRef, ClientJob
from flcommon.process import alive, read_identity

JOB = ClientJob(
    campaign="c",
    host="here",
    app=AppRef(client="a:app", server="a:app"),
    server_address="x:1",
    delay_seed=1,
    node_config={},
    trials=(),
)
MODULE = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1]).parent
job = json.loads((folder / "job.json").read_text())
lines = [{"name": "ready", "host": job["host"]}, {"name": "noise"}, {"name": "failed"}]
(folder / "events.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
print("hello")
LAST
"""


# --- real processes --------------------------------------------------------------------------------------------------


@pytest.fixture
def host():
    python = Python(path=sys.executable)
    return Host(name="here", role="server", host="x", ssh=Ssh(), python=python, workdir="~/.fieldlab")


@pytest.fixture
def pushed(here, host, own_facts):
    """Return the facts of this machine with the code on it."""
    push(here, own_facts, make_bundle())
    return look(host, here)


def worker(here, pushed, last):
    """Return a worker whose module writes three events and ends with the statement `last`."""
    code = code_directory(pushed, make_bundle())
    Path(code, "sample_worker.py").write_text(MODULE.replace("LAST", last))
    return Worker(here, pushed, "sample_worker", code, "c")


def test_a_process_from_start_to_pull(here, pushed, tmp_path):
    """It gets its job, its events come back by name, then how it ended; its files are what it wrote."""
    one, lines = worker(here, pushed, "sys.exit(3)"), []
    one.start(JOB)
    one.watch(["ready", "failed"], lines.append)
    assert [json.loads(line) for line in lines] == [
        {"name": "ready", "host": "here"},
        {"name": "failed"},
        {"status": 3},
    ]
    pulled = one.pull(tmp_path / "raw")
    assert {name: (file.size, file.left_out) for name, file in pulled.items()} == {
        name: ((tmp_path / "raw" / name).stat().st_size, 0) for name in (*PULLED, *PULLED_ENDS)
    }
    assert msgspec.json.decode((tmp_path / "raw" / "job.json").read_bytes(), type=ClientJob) == JOB
    assert (tmp_path / "raw" / "stdout").read_text() == "hello\n"
    assert running(here, pushed) == []
    one.stop()


def test_a_campaign_directory_is_used_once(here, pushed):
    """A second start in the same directory would mix two logs."""
    one = worker(here, pushed, "")
    one.start(JOB)
    with pytest.raises(CommandFailed, match=r"(?s)^here: start: .*File exists"):
        one.start(JOB)
    one.watch([], lambda _line: None)


def test_what_runs_is_found_and_stopped(here, host, pushed):
    """`deploy down` knows nothing but the host: it finds the process, ends it, and says so; twice is fine."""
    one = worker(here, pushed, "time.sleep(60)")
    one.start(JOB)
    assert running(here, pushed) == [one.directory]
    lab = Inventory(file=Path("lab.yaml"), lab="lab", playbook=None, server=host, server_address="x:1", clients=())
    assert take_down(lab, lambda _host: here) == [f"here: stopped {one.directory}"]
    who = read_identity(Path(one.directory))
    assert who is not None
    assert not alive(who)
    assert take_down(lab, lambda _host: here) == ["here: nothing was running"]
    stop(here, pushed, one.directory)


def test_a_host_without_code_runs_nothing(facts):
    """It is not even asked: there is nothing there to ask with."""
    remote = FakeRemote("a")
    assert running(remote, facts()) == []
    assert remote.calls == []
