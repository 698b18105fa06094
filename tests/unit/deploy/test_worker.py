"""A process on a host, as the controller drives it: start, watch, stop, pull."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from deploy.bundle import code_directory, make_bundle, push
from deploy.errors import CommandFailed
from deploy.facts import look
from deploy.inventory import Host, Inventory, Python, Ssh
from deploy.remote.fake import FakeRemote
from deploy.takedown import take_down
from deploy.worker import PULLED, PULLED_ENDS, Worker, host_statuses, stop
from flcommon.credentials import certificate_request
from flcommon.job import AppRef, ClientJob
from flcommon.process import Order, alive, read_identity

JOB = ClientJob(
    campaign="c",
    host="here",
    app=AppRef(client="a:app", server="a:app"),
    server_address="x:1",
    delay_seed=1,
    node_config={},
    trials=(),
)
ORDER = Order(msgspec.Raw(msgspec.json.encode(JOB)))
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


def test_a_process_from_start_to_pull(here, host, pushed, tmp_path):
    """It gets its job, its events come back by name, then how it ended; its files are what it wrote."""
    one, lines = worker(here, pushed, "sys.exit(3)"), []
    one.run(ORDER, ["ready", "failed"], lines.append)
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
    assert look(host, here).running == ()
    one.stop()
    again = []
    one.watch(["ready"], again.append)
    assert again == [lines[0], lines[-1]]


def test_a_campaign_directory_is_used_once(here, pushed):
    """A second start in the same directory would mix two logs."""
    one = worker(here, pushed, "")
    one.run(ORDER, [], lambda _line: None)
    with pytest.raises(CommandFailed, match=r"(?s)^here: start: .*File exists"):
        one.run(ORDER, [], lambda _line: None)


def test_what_runs_is_found_and_stopped(here, host, pushed):
    """`deploy down` knows nothing but the host: it finds the process, ends it, and says so; twice is fine."""
    one, started = worker(here, pushed, "time.sleep(60)"), threading.Event()
    watcher = threading.Thread(target=one.run, args=(ORDER, ["failed"], lambda _line: started.set()))
    watcher.start()
    assert started.wait(10)
    assert look(host, here).running == (one.directory,)
    assert take_down(lab(host), lambda _host: here).results == {"here": f"stopped {one.directory}"}
    watcher.join(10)
    who = read_identity(Path(one.directory))
    assert who is not None
    assert not alive(who)
    assert take_down(lab(host), lambda _host: here).results == {"here": "nothing was running"}
    stop(here, pushed, one.directory)


def test_purge_removes_what_is_ours_and_nothing_else(here, host, pushed):
    """Code, logs and key go; a file of somebody else in the work directory stays, and is said to; else all goes."""
    workdir = Path(pushed.workdir)
    (workdir / "campaigns" / "c" / "here").mkdir(parents=True)
    certificate_request(workdir / "keys")
    (workdir / "env").symlink_to(here.home)
    (here.home / "precious").write_text("mine")
    (workdir / "thesis.tex").write_text("mine")
    told = f"removed what is ours in {workdir}; other files lie there"
    assert take_down(lab(host), lambda _host: here, purge=True).results == {"here": told}
    assert [path.name for path in workdir.iterdir()] == ["thesis.tex"]
    assert (here.home / "precious").read_text() == "mine"
    (workdir / "thesis.tex").unlink()
    assert take_down(lab(host), lambda _host: here, purge=True).results == {"here": f"removed {workdir}"}
    assert not workdir.exists()
    assert take_down(lab(host), lambda _host: here, purge=True).results == {"here": f"there is no {workdir}"}


def lab(host):
    return Inventory(file=Path("lab.yaml"), lab="lab", playbook=None, server=host, server_address="x:1", clients=())


def test_a_host_without_code_runs_nothing(facts):
    """It is not even asked: there is nothing there to ask with."""
    remote = FakeRemote("a")
    assert host_statuses(remote, facts()) == []
    assert remote.calls == []
