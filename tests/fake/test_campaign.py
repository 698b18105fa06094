"""The life cycle of a campaign on fake hosts: what is done where, in which order, and what a failure leaves behind."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from deploy import watch
from deploy.bundle import make_bundle
from deploy.campaign import client_address, listen_address
from deploy.errors import CampaignError, CommandFailed, DeployError, HostError, InputError, LabError
from deploy.manifest import Manifest
from flcommon import events
from flcommon.job import ClientJob, ServerJob, Shaping
from flcommon.link import Way
from flcommon.process import Order

ALL = {"server", "client-1", "client-2"}
STORY_OF_ONE = (
    b'{"v":1,"seq":0,"mono_ns":0,"wall_ns":0,"name":"listening","address":"192.0.2.10:50123"}\n'
    b'{"v":1,"seq":1,"mono_ns":1,"wall_ns":1,"name":"campaign-started","trials":2,"clients":1}\n{"status":0}\n'
)


def failed(host, step, output="no room"):
    return CommandFailed(host, step, ["python"], status=1, output=output)


def test_a_campaign_leaves_a_complete_run_directory(lab, script, digest):
    """What the hosts send is kept byte for byte, and the manifest says what ran where, and that it is complete."""
    lab.up()
    assert (lab.manifest.status, lab.manifest.error, lab.manifest.code_digest) == ("complete", None, digest)
    assert {name: record.role for name, record in lab.manifest.hosts.items()} == {
        "server": "server",
        "client-1": "client",
        "client-2": "client",
    }
    assert [trial.settings for trial in lab.manifest.trials] == [{"delay.probability": 0}, {"delay.probability": 1}]
    assert all(lab.raw(host) == script.files for host in ALL)
    assert list(lab.manifest.phases_s) == lab.view.phases
    assert lab.view.notes == []
    assert all(station.closed for station in lab.stations.values())


def test_the_steps_come_in_the_order_of_the_life_cycle(lab, script):
    """All hosts are looked at before any is changed, and the server is watched before a client is started."""
    for host in ALL:
        lab.tell(host, "look", script.facts(code=("0123456789abcdef",)))
    lab.up()  # no host has a private key yet
    assert lab.view.phases == ["hosts", "connect", "look", "prepare", "push", "start", "run", "stop", "pull"]
    timeline = [done for done in lab.timeline if done[1] != "converse"]  # beside all from the start on
    steps = [name for _, name in timeline]
    assert set(steps[:3]) == {"look"}
    assert sorted(steps[3:9]) == ["compare"] * 3 + ["push"] * 3
    assert steps[9:12] == ["request"] * 3
    assert timeline[12] == ("server", "run")
    assert set(timeline[13:15]) == {("client-1", "run"), ("client-2", "run")}
    assert steps[15:] == ["pull"] * 3


def test_a_warm_up_to_running_takes_two_commands(lab, script, digest):
    """Where code and key are already, a host is looked at and started, and asked for nothing else before the logs.

    The conversation about clocks goes on beside that, and keeps nothing waiting.
    """
    for host in ALL:
        lab.tell(host, "look", script.facts(code=(digest,), csr=script.requests[host]))
    lab.up()
    done = [name for host, name in lab.timeline if host == "client-1"]
    assert done.count("converse") == 1
    assert [name for name in done if name != "converse"] == ["look", "run", "pull"]


def test_what_only_looks_uses_the_verb_that_only_looks(lab):
    """A dry run may drop `run`, `put` and `get`, and must lose no fact."""
    lab.up()
    for station in lab.stations.values():
        for call in station.calls:
            looks = call.step == "look" or "missing" in call.argv
            assert (call.verb == "read") == looks, call.step


def test_code_is_pushed_only_where_it_is_missing(lab, script, digest):
    """A host whose look lists the digest gets nothing; the others get the bundle, all of it."""
    lab.tell("client-1", "look", script.facts(code=("0123456789abcdef", digest)))
    lab.up()
    assert lab.hosts_that("push") == {"server", "client-2"}
    (put,) = lab.stations["client-2"].did("push")
    bundle = make_bundle()
    assert put.stdin == b"".join(bundle.pieces(bundle.whole))
    assert put.argv[-2:] == ("take", f"/home/pi/.fieldlab/code/{digest}")


def test_processes_run_from_the_pushed_code_in_a_directory_of_their_own(lab, digest):
    """Nothing of what a host has installed as `flcommon` is used; every campaign has its own directory."""
    lab.up()
    for host, module in (("server", "flserver"), ("client-2", "flclient")):
        (start,) = lab.stations[host].did("run")
        directory = f"/home/pi/.fieldlab/campaigns/{lab.manifest.campaign}/{host}"
        assert start.argv[:2] == ("env", f"PYTHONPATH=/home/pi/.fieldlab/code/{digest}")
        assert start.argv[6:9] == ("run", directory, module)


def test_clients_get_the_port_that_the_server_has_taken(lab):
    """The inventory says port 0; the port in the clients' jobs is that of the `listening` event."""
    lab.up()
    (server,) = lab.stations["server"].did("run")
    order = msgspec.json.decode(server.stdin, type=Order)
    assert msgspec.json.decode(order.job, type=ServerJob).listen == "192.0.2.10:0"
    assert msgspec.json.decode(order.manifest, type=Manifest).campaign == lab.manifest.campaign
    for number, host in enumerate(("client-1", "client-2")):
        (client,) = lab.stations[host].did("run")
        job = msgspec.json.decode(msgspec.json.decode(client.stdin, type=Order).job, type=ClientJob)
        assert job.server_address == "192.0.2.10:50123"
        assert (job.host, job.node_config["partition-id"]) == (host, number)


@pytest.mark.parametrize(
    ("address", "listen", "clients"),
    [
        ("192.0.2.10:0", "192.0.2.10:0", "192.0.2.10:7"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80", "[2001:db8::1]:7"),
        ("pc-b.local:80", "[::]:80", "pc-b.local:7"),
    ],
)
def test_a_server_that_is_known_by_a_name_listens_on_all_addresses(address, listen, clients):
    """A name may mean another address on the server itself, 127.0.1.1 on Debian; clients use the inventory's word."""
    assert listen_address(address) == listen
    assert client_address(address, events.Listening(address="[::]:7")) == clients


def test_processes_that_have_ended_are_not_stopped(lab):
    """Only what may still run is stopped: nothing after a campaign that ended by itself."""
    lab.up()
    assert lab.hosts_that("stop") == set()


def test_an_interrupt_stops_what_still_runs(lab, script):
    """Ctrl-C in a round: every process is stopped, and what was measured until then is pulled from all hosts."""
    for host in ALL:
        lab.stations[host].lasting = True
        lab.tell(host, "run", script.said(*(script.opening if host == "server" else ())))
    lab.view.interrupt_at = events.RoundStarted
    with pytest.raises(KeyboardInterrupt):
        lab.up()
    assert lab.hosts_that("stop") == lab.hosts_that("pull") == ALL
    assert (lab.manifest.status, lab.manifest.error) == ("interrupted", None)


def test_an_interrupt_before_the_clients_start_starts_none(lab):
    """Ctrl-C while the server starts."""
    lab.stations["server"].lasting = True
    lab.view.interrupt_at = events.Listening
    with pytest.raises(KeyboardInterrupt):
        lab.up()
    assert lab.hosts_that("run") == {"server"}
    assert "server" in lab.hosts_that("stop")
    assert lab.manifest.status == "interrupted"


RUNNING = "/home/pi/.fieldlab/campaigns/20260101T000000Z-abcdef"


def test_a_busy_host_is_refused_before_anything_changes(lab, script):
    """Two campaigns on one host would time each other: the error names the host and the ways out."""
    lab.tell("client-2", "look", script.facts(code=("0123456789abcdef",), running=(f"{RUNNING}/client-2",)))
    with pytest.raises(LabError, match=r"^client-2: look: a campaign runs there already \(.*abcdef/client-2\)") as one:
        lab.up()
    assert all(way in str(one.value) for way in ("deploy attach lab.yaml", "deploy stop lab.yaml", "--replace"))
    assert {name for _, name in lab.timeline} == {"look"}
    assert lab.view.directory is None
    assert all(station.closed for station in lab.stations.values())


def test_replace_ends_what_runs_first(lab, script):
    """With --replace the other campaign is stopped where it runs, and said so; then all goes its way."""
    lab.tell("client-2", "look", script.facts(code=("0123456789abcdef",), running=(f"{RUNNING}/client-2",)))
    lab.up(replace=True)
    (stop,) = lab.stations["client-2"].did("stop")
    assert stop.argv[-1] == f"{RUNNING}/client-2"
    assert lab.view.notes == [f"client-2: stopped {RUNNING}/client-2"]
    assert lab.timeline.index(("client-2", "stop")) < lab.timeline.index(("client-2", "push"))
    assert lab.manifest.status == "complete"


@pytest.mark.parametrize("step", ["connect", "look", "push"])
def test_the_campaign_goes_on_with_the_clients_that_are_left(lab, step):
    """A client that cannot be reached, used or prepared is left out: manifest and user are told."""
    if step == "connect":
        lab.unreachable["client-1"] = HostError("client-1", "connect", "no answer")
    else:
        lab.tell("client-1", step, HostError("client-1", step, "no answer"))
    lab.tell("server", "run", STORY_OF_ONE)
    lab.up(min_clients=1)
    assert (lab.manifest.status, set(lab.manifest.hosts)) == ("complete", {"server", "client-2"})
    assert lab.manifest.absent == {"client-1": f"client-1: {step}: no answer"}
    assert lab.view.notes == [f"going on without client-1: client-1: {step}: no answer"]
    assert lab.hosts_that("run") == lab.hosts_that("pull") == {"server", "client-2"}
    (client,) = lab.stations["client-2"].did("run")
    job = msgspec.json.decode(msgspec.json.decode(client.stdin, type=Order).job, type=ClientJob)
    assert job.node_config == {"partition-id": 0, "num-partitions": 1}


def test_too_few_clients_are_too_few(lab):
    """All that failed, at whatever step, are named together, and how many are left."""
    lab.unreachable["client-1"] = HostError("client-1", "connect", "no answer")
    lab.tell("client-2", "look", HostError("client-2", "look", "no room"))
    with pytest.raises(LabError) as caught:
        lab.up(min_clients=1)
    assert str(caught.value).splitlines() == [
        "client-1: connect: no answer",
        "client-2: look: no room",
        "0 of 2 clients are left, fewer than --min-clients 1",
    ]
    assert lab.hosts_that("push") == set()
    assert all(station.closed for host, station in lab.stations.items() if host != "client-1")


def test_more_clients_than_there_are_is_a_slip(lab):
    """It is said before any host is spoken to."""
    with pytest.raises(InputError, match=r"^lab.yaml: --min-clients 3 asks for more clients than the 2 of this lab"):
        lab.up(min_clients=3)
    assert lab.timeline == []


def test_output_that_was_not_pulled_whole_is_noted(lab):
    """Of what a process writes without end the last 16 MiB come; the user is told where the rest is."""
    hashed, piece, answer = hashlib.sha256(), bytes(1 << 18), [b"1\n%d stdout\n" % (40 << 20)]
    for _ in range(64):
        hashed.update(piece)
        answer += [piece, hashed.digest()]
    lab.tell("client-1", "pull", b"".join(answer))
    lab.up()
    assert lab.view.notes == ["client-1: stdout has 40 MiB: the last 16 are here, the rest is on the host"]
    assert len(lab.raw("client-1")["stdout"]) == 16 << 20


def test_without_its_server_no_lab_goes_on(lab):
    """However few clients would do."""
    lab.unreachable["server"] = HostError("server", "connect", "no answer")
    with pytest.raises(HostError, match=r"^server: connect: no answer$"):
        lab.up(min_clients=1)


def test_hosts_that_cannot_be_reached_are_named_together(lab):
    """Without --min-clients all hosts are needed; none is looked at when one is missing."""
    for host in ("client-1", "server"):
        lab.unreachable[host] = HostError(host, "connect", "no answer")
    with pytest.raises(LabError) as caught:
        lab.up()
    assert list(caught.value.failures) == ["server", "client-1"]
    assert lab.timeline == []


def test_detached_is_left_running(lab, script):
    """`up --detach` returns once the campaign runs: nothing is stopped or pulled, and the manifest says `running`."""
    for host in ALL:
        lab.stations[host].lasting = True
        lab.tell(host, "run", script.said(*(script.opening[:2] if host == "server" else ())))
    lab.up(detach=True)
    assert lab.hosts_that("run") == ALL
    assert lab.hosts_that("stop") | lab.hosts_that("pull") == set()
    assert lab.manifest.status == "running"
    assert lab.view.notes == []
    assert all(station.closed for station in lab.stations.values())


def test_a_pause_is_used_for_pulling(lab, script):
    """What is new is pulled from all hosts while the server holds the experiment; then it is let go on."""
    pause = (events.Paused(trial=0, round=1, number=3),)
    lab.tell("server", "run", script.said(*script.opening, *pause) + script.exited(0))
    lab.tell("server", "paused", "yes\n")
    lab.up()
    steps = [(host, name) for host, name in lab.timeline if name in ("paused", "pull", "resume")]
    assert steps[0] == ("server", "paused")
    assert set(steps[1:4]) == {(host, "pull") for host in ALL}
    assert steps[4] == ("server", "resume")
    assert {name for _, name in steps[5:]} == {"pull"}
    assert lab.stations["server"].did("resume")[0].argv[-1] == "3"


def test_a_pause_that_is_over_is_none(lab, script):
    """An old log that is read again tells of pauses: nothing is pulled during a round."""
    pause = (events.Paused(trial=0, round=1, number=3),)
    lab.tell("server", "run", script.said(*script.opening, *pause) + script.exited(0))
    lab.up()
    assert lab.hosts_that("resume") == set()
    assert [name for _, name in lab.timeline].count("pull") == 3


def test_a_host_with_findings_is_refused_before_anything_changes(lab, script):
    """A look that finds something wrong on two hosts names both, and no host is changed."""
    lab.tell("client-1", "look", script.facts(python_version="3.9.2"))
    lab.tell("server", "look", script.facts(writable=False))
    with pytest.raises(LabError) as caught:
        lab.up()
    assert list(caught.value.failures) == ["server", "client-1"]
    assert [name for _, name in lab.timeline] == ["look"] * 3


def test_a_push_that_fails_names_host_and_step(lab):
    """Nothing is started anywhere when one host could not take the code."""
    lab.tell("client-1", "push", failed("client-1", "push"))
    with pytest.raises(CommandFailed, match=r"^client-1: push: exit status 1 from: python\n    no room$"):
        lab.up()
    assert lab.hosts_that("run") == set()
    assert lab.view.directory is None


def test_pushes_that_fail_on_several_hosts_are_one_error(lab):
    """Every failed host is named."""
    for host in ("client-1", "client-2"):
        lab.tell(host, "push", failed(host, "push"))
    with pytest.raises(LabError) as caught:
        lab.up()
    assert list(caught.value.failures) == ["client-1", "client-2"]


def broken(lab, script):
    """Let client-2 fail before the campaign runs, and the others repeat it in their own words."""
    ready = events.Ready(after_s=1, app_import_s=1)
    own = events.Failed(step="run", reason="RuntimeError: the card is full")
    gone = events.Failed(step="run", reason="client-2 is gone: RuntimeError")
    echo = events.Failed(step="run", reason="the server ended the campaign: client-2 is gone")
    lab.tell("client-2", "run", script.said(ready, own) + script.exited(1))
    lab.tell("client-1", "run", script.said(ready, echo) + script.exited(1))
    lab.tell("server", "run", script.said(*script.opening[:1], gone) + script.exited(1))


def test_the_client_that_failed_is_named_and_not_its_echoes(lab, script):
    """The error is the cause, with the end of that host's stderr and where the rest of it is."""
    broken(lab, script)
    with pytest.raises(CampaignError) as caught:
        lab.up()
    error = str(caught.value)
    assert error.startswith("client-2: run: RuntimeError: the card is full")
    assert "client-1" not in error
    assert error.endswith(f"{lab.view.directory / 'raw' / 'client-2' / 'stderr'} ends with\n    one\n    two")
    assert (lab.manifest.status, lab.manifest.error) == ("failed", error)
    assert lab.hosts_that("stop") == set()


def test_a_server_that_never_listens_is_the_cause(lab, script):
    """No client is started for a server that ended before it listened."""
    lab.tell("server", "run", script.said(events.Failed(step="listen", reason="the port is in use")) + script.exited(1))
    with pytest.raises(CampaignError, match=r"^server: listen: the port is in use"):
        lab.up()
    assert lab.hosts_that("run") == {"server"}


def test_a_client_that_cannot_be_started_stops_the_server(lab, script):
    """Half a lab is no lab: what runs is stopped."""
    lab.stations["server"].lasting = True
    lab.tell("server", "run", script.said(*script.opening[:1]))
    lab.tell("client-2", "run", failed("client-2", "start"))
    with pytest.raises(CommandFailed, match=r"^client-2: start"):
        lab.up()
    assert "server" in lab.hosts_that("stop")
    assert lab.manifest.status == "failed"


def test_a_host_that_is_lost_is_stopped_all_the_same(lab):
    """A connection that breaks ends no campaign that runs, and says nothing about the process: it is stopped."""
    lab.tell("client-1", "run", HostError("client-1", "watch", "the connection was lost"))
    lab.up()
    assert lab.hosts_that("stop") == {"client-1"}
    assert lab.hosts_that("pull") == ALL
    assert (lab.manifest.status, lab.manifest.lost) == ("complete", {})


def test_logs_that_arrive_damaged_are_noted_and_not_kept(lab, script):
    """A sum that is wrong twice costs that file; the other logs are kept, and the manifest is written."""
    lab.tell("client-1", "pull", script.sent(script.files, stderr=bytes(32)))
    again = script.sent({"stderr": b"one\ntwo\n"}, stderr=bytes(32))
    station = lab.stations["client-1"]
    station.answers = {lambda argv: "stderr" in argv and "stdout" not in argv: again, **station.answers}
    lab.up()
    assert lab.view.notes == ["client-1: pull: stderr arrived damaged, and is not kept"]
    assert set(lab.raw("client-1")) == set(script.files) - {"stderr"}
    assert lab.raw("client-2") == script.files
    assert lab.manifest.status == "complete"


@pytest.mark.parametrize("answer", [b"", b"\xff\n", b"[]\n", b"1\n3 events.jsonl\n", b"1\n4 stdout\nab"])
def test_whatever_a_pull_brings_hides_no_error(lab, script, answer):
    """The error that came first is raised; an answer that makes no sense is a note about that host."""
    broken(lab, script)
    lab.tell("client-1", "pull", answer)
    with pytest.raises(CampaignError, match=r"^client-2: run"):
        lab.up()
    (note,) = lab.view.notes
    assert note.startswith("client-1: pull: ")
    assert lab.manifest.status == "failed"


def test_a_failure_while_stopping_is_a_note(lab, script, monkeypatch):
    """A process that cannot be stopped neither hides the first error nor holds up the rest of the undoing."""
    monkeypatch.setattr(watch, "AFTERMATH_S", 0.05)
    broken(lab, script)
    lab.stations["client-1"].lasting = True
    lab.tell("client-1", "run", script.said(events.Ready(after_s=1, app_import_s=1)))
    lab.tell("client-1", "stop", failed("client-1", "stop", "not permitted"))
    with pytest.raises(CampaignError, match=r"^client-2: run: RuntimeError"):
        lab.up()
    assert ["not permitted" in note for note in lab.view.notes] == [True]
    assert lab.hosts_that("pull") == ALL
    assert all(station.closed for station in lab.stations.values())


def test_a_manifest_that_cannot_be_written_hides_no_error(lab, script):
    """The disk of this machine fills up during the campaign: that is a note beside the error that came first."""
    broken(lab, script)
    blocked = lab.tmp_path / "runs"
    lab.view.event = lambda _host, _event: (
        next(blocked.glob("*/*")).joinpath(".manifest.json.part").mkdir(exist_ok=True)
    )
    with pytest.raises(CampaignError, match=r"^client-2: run: RuntimeError"):
        lab.up()
    assert [note.endswith("manifest.json: cannot be written: Is a directory") for note in lab.view.notes] == [True]
    assert lab.manifest.status == "running"


def test_a_manifest_that_cannot_be_written_is_an_error(lab):
    """A campaign that went well and cannot say so has not gone well."""
    blocked = lab.tmp_path / "runs"
    lab.view.event = lambda _host, _event: (
        next(blocked.glob("*/*")).joinpath(".manifest.json.part").mkdir(exist_ok=True)
    )
    with pytest.raises(DeployError, match=r"manifest.json: cannot be written: Is a directory"):
        lab.up()


def test_a_controller_without_room_for_the_logs_hides_no_error(lab, script):
    """Files that cannot be written on this machine are a note too, for every host."""
    broken(lab, script)
    lab.view.run = lambda directory, _plan: (directory / "raw").write_text("in the way")
    with pytest.raises(CampaignError, match=r"^client-2: run: RuntimeError"):
        lab.up()
    (note,) = lab.view.notes
    assert [line.split(": ")[:2] for line in note.splitlines()] == [[host, "pull"] for host in lab.stations]


def told_of(lab, host):
    """Return a client's job as it was sent to its host."""
    (client,) = lab.stations[host].did("run")
    return msgspec.json.decode(msgspec.json.decode(client.stdin, type=Order).job, type=ClientJob)


LINKS = "link: {delay_ms: 5}\nhosts: [{match: {name: client-2}, link: {up: {rate_mbit: 1}, layer: LAYER}}]\n"


def test_links_reach_the_jobs_and_the_manifest(lab):
    """Each client's own, and by which layer: hosts that say nothing of their kernel have relays."""
    lab.playbook += LINKS.replace("LAYER", "relay")
    lab.up()
    assert lab.manifest.shaping == {name: Shaping(layer="relay") for name in ("client-1", "client-2")}
    for name, way in (("client-1", Way(delay_ms=5)), ("client-2", Way(rate_mbit=1))):
        job = told_of(lab, name)
        assert job.shaping == Shaping(layer="relay")
        assert [trial.link for trial in job.trials] == [trial.links[name] for trial in lab.manifest.trials]
        assert {trial.link.ways[0] for trial in job.trials} == {way}
        assert job.warmup.link is None


def test_a_layer_that_cannot_be_had_ends_a_campaign_before_it_starts(lab):
    """Nothing but a look has been done on any host; with fewer clients enough, the others go on."""
    lab.playbook += LINKS.replace("LAYER", "kernel")
    with pytest.raises(HostError, match="client-2: look: the playbook asks for layer: kernel"):
        lab.up()
    assert {name for _, name in lab.timeline} == {"look"}
    assert lab.view.directory is None


def test_rules_that_do_not_fit_the_lab_end_it_before_anything_is_done(lab):
    """Not even a look."""
    lab.playbook += "hosts: [{match: {net: wifi}, link: {delay_ms: 5}}]\n"
    with pytest.raises(InputError, match=r"hosts\[0\]\.match\.net: no client of the lab has a label 'net'"):
        lab.up()
    assert lab.timeline == []
