"""Processes that die on real hosts, by a signal or with their host's power, and are started again by who watches."""

from __future__ import annotations

import contextlib

import msgspec
import pytest

from deploy.bundle import code_directory, make_bundle, push
from deploy.facts import look
from deploy.providers.netns.lab import netns_lab, power_off, power_on
from deploy.remote import transport
from deploy.remote.ssh import connect
from deploy.watch import CampaignWatch
from deploy.worker import Worker
from flcommon.eventlog import processes, read_log
from flcommon.events import CampaignStarted, JobAccepted, Ready
from flcommon.process import Identity, Order

DOUBLE = """
import os, sys, time
from pathlib import Path
import msgspec
from flcommon.eventlog import EventLog
from flcommon.events import CampaignStarted, JobAccepted, Ready

here = Path(sys.argv[1]).parent
log = EventLog(here / "events.jsonl")
job = msgspec.Raw(b"{}")
log.write(JobAccepted(role="double", host=here.name, campaign="c", pid=os.getpid(), versions={}, job=job))
log.write(FIRST)
print("started", flush=True)
while not (here / "goodbye").exists():
    time.sleep(0.01)
"""
MODULES = {
    "doubleserver": DOUBLE.replace("FIRST", "CampaignStarted(trials=1, clients=1)"),
    "doubleclient": DOUBLE.replace("FIRST", "Ready(after_s=0.0, app_import_s=0.0)"),
}
ORDER = Order(msgspec.Raw(b"{}"))
NAMES = ("campaign-started", "ready", "failed")


@pytest.fixture
def pair(make_lab, clean, monkeypatch):
    """Give a lab, and workers whose processes do nothing but say that they are there, until they are told to end."""
    quick = (("TCP_NODELAY", 1), ("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3))
    monkeypatch.setattr(transport, "_TCP_OPTIONS", quick)
    with netns_lab(make_lab(1)) as lab, contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(host, module)) for host, module in zip(lab.hosts, MODULES, strict=True)]
        yield lab, *workers
    assert clean() == set()


@contextlib.contextmanager
def _worker(host, module):
    with connect(host) as remote:
        facts, bundle = look(host, remote), make_bundle()
        push(remote, facts, bundle)
        code = code_directory(facts, bundle)
        script = ["sh", "-c", 'cat > "$0"', f"{code}/{module}.py"]
        remote.put(iter([MODULES[module].encode()]), script, step="push")
        yield Worker(remote, facts, module, code, "c")


def identity(worker):
    return msgspec.json.decode(
        worker.remote.read(["cat", f"{worker.directory}/process.json"], step="look"), type=Identity
    )


def by_signal(_lab, client):
    client.remote.run(["kill", "-9", str(identity(client).pid)], step="kill")


def by_power(lab, client):
    power_off(lab, client.host)
    power_on(lab, client.host)


@pytest.mark.parametrize(("kill", "how"), [(by_signal, "killed by SIGKILL"), (by_power, "left no exit status")])
def test_a_client_that_dies_is_started_again(pair, tmp_path, kill, how):
    """In the same directory, with the same job; both processes' events are in one log, which is pulled whole."""
    lab, server, client = pair
    notes = []
    watch = CampaignWatch(lambda *_: None, on_note=notes.append, aftermath_s=0.1)
    watch.follow(server, NAMES, ORDER)
    watch.until(CampaignStarted)
    watch.follow(client, NAMES, ORDER)
    watch.until(Ready)
    client.pull(tmp_path, final=False)
    first = identity(client)
    kill(lab, client)
    watch.until(Ready)
    second = identity(client)
    assert (first.start, second.start) == (1, 2)
    server.remote.run(["touch", f"{server.directory}/goodbye"], step="end")
    watch.until_ended()
    client.stop()
    watch.join()
    assert [how in note for note in notes if "starting it again" in note] == [True]
    assert watch.missing() == {}
    client.pull(tmp_path)
    reading = read_log(tmp_path / "events.jsonl")
    assert reading.problems == []
    assert [[type(event) for _, event in told] for told in processes(reading.events)] == [[JobAccepted, Ready]] * 2
    assert (tmp_path / "stdout").read_text() == "started\n" * 2
