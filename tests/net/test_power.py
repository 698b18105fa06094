"""Power failures and reboots of hosts in namespaces."""

from __future__ import annotations

import select
import socket

import msgspec
import psutil
import pytest

from deploy.errors import DeployError, HostError
from deploy.providers.netns.lab import netns_lab, power_off, power_on
from deploy.remote import ssh

SILENCE_S = 0.3
KEEPER = "deploy.providers.netns.keeper"


def ask(host, *argv):
    with ssh.connect(host) as remote:
        return remote.run(argv, step="ask").strip()


def test_a_power_failure_and_the_reboot(make_lab, clean):
    """The host falls silent without a good-bye; after the boot its files are there, its processes and /tmp are not."""
    with netns_lab(make_lab()) as lab:
        host = lab.clients[0]
        ask(host, "sh", "-c", "echo kept > ~/file; echo kept > /etc/file; echo lost > /tmp/file")
        before = int(ask(host, "sh", "-c", "setsid sleep 603 >/dev/null 2>&1 </dev/null & echo $!"))
        with socket.create_connection((host.host, 22), timeout=10) as open_one:
            assert open_one.recv(100).startswith(b"SSH-2.0")
            power_off(lab, host.name)
            assert not select.select([open_one], [], [], SILENCE_S)[0], "the host said something when it died"
            with pytest.raises(DeployError, match="client-1 is off already"):
                power_off(lab, host.name)
            assert ask(lab.server, "hostname") == "server"
            power_on(lab, host.name)
            open_one.sendall(b"are you there?\n")
            with pytest.raises(ConnectionResetError):  # a machine that has booted knows nothing of it
                open_one.recv(100)
        told = ask(host, "sh", "-c", "cat ~/file /etc/file; find /tmp -name file; hostname")
        assert told.split() == ["kept", "kept", "client-1"]
        assert "sleep 603" not in ask(host, "ps", "-e", "-o", "args="), before
        with pytest.raises(DeployError, match="client-1 is on already"):
            power_on(lab, host.name)
        with pytest.raises(DeployError, match=r"no host 'client-9' \(known hosts: server, client-1\)"):
            power_on(lab, "client-9")
    assert clean() == set()
    with pytest.raises(DeployError, match="is it still up"):
        power_on(lab, host.name)


def test_a_host_whose_first_process_dies_is_off(make_lab, wait_for, clean):
    """Whoever kills it: all of its processes go, the others' stay, and it can be switched on again."""
    with netns_lab(make_lab(2)) as lab:
        first_process(1).kill()
        assert wait_for(lambda: switched_on(lab, "client-1"))
        assert ask(lab.clients[0], "hostname") == "client-1"
        assert ask(lab.clients[1], "hostname") == "client-2"
    assert clean() == set()


def first_process(number):
    """Find it from outside, in the latest lab, by its order: a supervisor has no other children than hosts."""
    keepers = [child for child in psutil.Process().children() if KEEPER in child.cmdline()]
    keeper = max(keepers, key=lambda child: child.create_time())
    (supervisor,) = keeper.children()
    return sorted(supervisor.children(), key=lambda child: child.pid)[number]


def switched_on(lab, host):
    """Switch it on; not yet, as long as the supervisor has not seen that it is off."""
    try:
        power_on(lab, host)
    except DeployError as error:
        if "on already" not in str(error):
            raise
        return False
    return True


def test_a_host_without_power_cannot_be_reached(make_lab):
    """The toolkit says so in its own words, after the inventory's patience."""
    with netns_lab(make_lab()) as lab:
        power_off(lab, "client-1")
        with pytest.raises(HostError, match=r"^client-1: connect: (no answer|connection refused or no route)"):
            ssh.connect(impatient(lab.clients[0]))


def impatient(host):
    return msgspec.structs.replace(host, ssh=msgspec.structs.replace(host.ssh, connect_timeout_s=0.5))
