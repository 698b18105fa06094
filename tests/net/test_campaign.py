"""A whole campaign on hosts in namespaces, and what is said where there can be none."""

from __future__ import annotations

import contextlib
import os
import sys

import msgspec
import pytest

from deploy.campaign import Request, up
from deploy.errors import DeployError
from deploy.inspection import lab_status
from deploy.inventory import Python
from deploy.manifest import Manifest
from deploy.playbook import load_playbook
from deploy.providers.netns import machine as netns_machine
from deploy.providers.netns.lab import find_lab, lab_down, lasting_labs, netns_lab
from deploy.remote.ssh import connect
from deploy.takedown import take_down
from deploy.view import Silent

PAYLOAD = """
playbook: small
app: flclient.apps.payload
probe: off
run_config: {payload-bytes: 1000}
rounds: 2
order: listed
delay: {at: before-upload, seconds: 0.05}
sweep: {delay.probability: [0, 1]}
"""


def test_a_campaign_on_hosts_in_namespaces(make_lab, tmp_path, clean):
    """The same code path as on real hosts: all is pulled, and the run is complete."""
    (tmp_path / "playbook.yaml").write_text(PAYLOAD)
    lab = make_lab(2)
    up(Request(netns_lab(lab), load_playbook(tmp_path / "playbook.yaml"), tmp_path / "runs", connect), Silent())
    (run,) = (tmp_path / "runs" / lab.lab).iterdir()
    manifest = msgspec.json.decode((run / "manifest.json").read_bytes(), type=Manifest)
    assert (manifest.status, manifest.error) == ("complete", None)
    for host in lab.names:
        assert manifest.hosts[host].facts["hostname"] == host
        assert (run / "raw" / host / "exit.json").read_text() == '{"status":0}'
    assert clean() == set()


def test_only_root_can_have_one(make_lab, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(DeployError, match=r"needs root \(sudo\)"), netns_lab(make_lab()):
        pytest.fail("was entered")
    for ask in (lab_down, lasting_labs, lambda: find_lab(make_lab())):
        with pytest.raises(DeployError, match=r"needs root \(sudo\)"):
            ask()


def test_only_linux_can_have_one(make_lab, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(DeployError, match="needs Linux"), netns_lab(make_lab()):
        pytest.fail("was entered")


def test_missing_programs_are_named_with_their_packages(make_lab, monkeypatch, tmp_path):
    (tmp_path / "ip").write_text("#!/bin/sh\n")
    (tmp_path / "ip").chmod(0o755)
    monkeypatch.setattr(netns_machine, "_SEARCHED", str(tmp_path))
    wanted = "needs sshd, ssh-keygen: apt-get install openssh-client openssh-server"
    with pytest.raises(DeployError, match=wanted), netns_lab(make_lab()):
        pytest.fail("was entered")


def test_bare_hosts_without_internet_run_a_campaign(make_lab, tmp_path, clean, monkeypatch):
    """Nothing but SSH and a Python: this machine brings the rest; what looks at the host later finds its way too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "playbook.yaml").write_text(PAYLOAD)
    with netns_lab(make_lab(1)) as whole:
        bare = Python(manager="wheelhouse")
        server, client = (msgspec.structs.replace(host, python=bare) for host in whole.hosts)
        lab = msgspec.structs.replace(whole, server=server, clients=(client,))
        request = Request(
            contextlib.nullcontext(lab), load_playbook(tmp_path / "playbook.yaml"), tmp_path / "runs", connect
        )
        up(request, Silent())
        (run,) = (tmp_path / "runs" / lab.lab).iterdir()
        manifest = msgspec.json.decode((run / "manifest.json").read_bytes(), type=Manifest)
        assert manifest.status == "complete"
        for record in manifest.hosts.values():
            assert record.facts["python"].startswith("/root/.fieldlab/env/")
        assert lab_status(lab, connect).ok
        assert set(take_down(lab, connect, purge=True).results.values()) == {"removed /root/.fieldlab"}
    assert clean() == set()
