"""How a campaign comes by its certificates, and what it says where it does without."""

from __future__ import annotations

import msgspec
import pytest
from cryptography import x509

from deploy.errors import CommandFailed, HostError
from flcommon.job import ClientJob, ServerJob, Tls
from flcommon.process import Order

ALL = ("server", "client-1", "client-2")
NO_TLS = "transport: {tls: off}\n"


def job(lab, host: str) -> ServerJob | ClientJob:
    (call,) = lab.stations[host].did("run")
    order = msgspec.json.decode(call.stdin, type=Order)
    return msgspec.json.decode(order.job, type=ServerJob if host == "server" else ClientJob)


def certificate(tls: Tls) -> x509.Certificate:
    return x509.load_pem_x509_certificate(tls.certificate.encode())


def test_every_process_gets_a_certificate_for_its_own_key(lab, script):
    """Of one authority, in its name, for the request that its own host has made; the key's path and not the key."""
    lab.up()
    jobs = {host: job(lab, host).tls for host in ALL}
    assert len({tls.authority for tls in jobs.values()}) == 1
    for host, tls in jobs.items():
        asked = x509.load_pem_x509_csr(script.requests[host].encode())
        assert certificate(tls).public_key() == asked.public_key()
        assert certificate(tls).subject.rfc4514_string() == f"CN={host}"
        assert (tls.key, tls.server_name) == ("/home/pi/.fieldlab/keys/host.key", "192.0.2.10")
    assert lab.manifest.tls
    assert lab.view.notes == []


def test_an_authority_lasts_for_one_campaign(lab):
    """The next one has another."""
    lab.up()
    first = job(lab, "server").tls.authority
    for station in lab.stations.values():
        station.calls.clear()
    lab.up()
    assert job(lab, "server").tls.authority != first


def test_only_hosts_without_a_key_are_asked(lab, script, digest):
    """The others' requests have come with the look."""
    for host in ALL[:2]:
        lab.tell(host, "look", script.facts(code=(digest,), csr=script.requests[host]))
    lab.tell("client-2", "look", script.facts(code=(digest,)))
    lab.up()
    assert lab.hosts_that("request") == {"client-2"}
    (call,) = lab.stations["client-2"].did("request")
    assert (call.verb, call.argv[-2:]) == ("run", ("request", "/home/pi/.fieldlab/keys"))
    assert certificate(job(lab, "client-2").tls)


def test_the_run_directory_keeps_no_request(lab):
    """What a host is looked at for, beyond the measurement, is not the reader's business."""
    lab.up()
    assert {record.facts["csr"] for record in lab.manifest.hosts.values()} == {""}
    assert "CERTIFICATE REQUEST" not in (lab.view.directory / "manifest.json").read_text()


@pytest.mark.parametrize("answer", ["", "nonsense\n", "-----BEGIN CERTIFICATE REQUEST-----\n"])
def test_a_host_with_a_strange_request_starts_nothing(lab, script, answer):
    """It is named with the step, in one line; no process is started anywhere."""
    lab.tell("client-1", "look", script.facts())
    lab.tell("client-1", "request", answer)
    with pytest.raises(HostError, match=r"^client-1: keys: the host's certificate request cannot be read: delete"):
        lab.up()
    assert lab.hosts_that("run") == set()


def test_a_host_without_a_key_can_be_left_out(lab, script):
    """As one that fails at any other step before the start."""
    lab.tell("client-1", "look", script.facts())
    said = "/home/pi/.fieldlab/keys/host.key: Permission denied\n"
    lab.tell("client-1", "request", CommandFailed("client-1", "keys", ["python"], status=1, output=said))
    lab.up(min_clients=1)
    assert lab.manifest.absent == {"client-1": f"client-1: keys: {said.strip()}"}
    assert lab.hosts_that("run") == {"server", "client-2"}


def test_hosts_with_the_same_key_are_noted(lab, script):
    """Cards written from one image let one host pose as another: the user is told which, and what to do."""
    lab.tell("client-2", "look", script.facts(csr=script.requests["client-1"]))
    lab.up()
    (note,) = lab.view.notes
    assert note.startswith("client-1, client-2 have the same private key, and can pose as each other: unless they are")


def test_without_tls_no_key_is_made_and_the_user_is_told(lab, script):
    """Loudly: who can join, and who can read along; the manifest keeps it."""
    lab.playbook += NO_TLS
    for host in ALL:
        lab.tell(host, "look", script.facts())
    lab.up()
    assert lab.hosts_that("request") == set()
    assert [job(lab, host).tls for host in ALL] == [None] * 3
    assert not lab.manifest.tls
    assert lab.manifest.playbook_resolved["transport"] == {"tls": False}
    (note,) = lab.view.notes
    assert "whoever reaches the server's port can join as any client" in note
