"""What a host in a namespace is: a machine of its own, as far as whoever logs in can tell."""

from __future__ import annotations

import io
import json
import re
import socket
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from deploy.errors import CommandFailed
from deploy.providers.netns.lab import Extras, addresses6, netns_lab
from deploy.remote import ssh

SERVE = """
import socket, sys
with socket.create_server(("", 8080)) as listening:
    print("listening", flush=True)
    for _ in range(int(sys.argv[1])):
        caller, address = listening.accept()
        with caller:
            caller.sendall(f"hello {address[0]}".encode())
"""
CALL = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as called:
    print(called.recv(100).decode().strip())
"""
SPIN = """
import time
wall, cpu = time.perf_counter(), time.process_time()
sum(range(8_000_000))
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
NO_CAPABILITIES = {"CAP_SYS_MODULE": 16, "CAP_SYS_RAWIO": 17, "CAP_SYS_TIME": 25, "CAP_MKNOD": 27}


def ask(host, *argv):
    with ssh.connect(host) as remote:
        return remote.run(argv, step="ask").strip()


def test_hosts_have_names_homes_and_places_of_their_own(lab):
    """The host name is the inventory's; a home and a /tmp are empty for everybody but who wrote into them."""
    for host in lab.hosts:
        assert ask(host, "sh", "-c", "hostname; cd; pwd; whoami").split() == [host.name, "/root", "root"]
        # Files: directories may lead to the Python in use, if that lies there.
        script = (
            "set -e; find /tmp /home -xdev -type f;"
            " for d in ~ /tmp /etc /usr /var; do echo $0 > $d/fieldlab-was-here; done"
        )
        assert ask(host, "sh", "-c", script, host.name) == ""
    for host in lab.hosts:
        told = ask(host, "sh", "-c", "cat ~/fieldlab-was-here /tmp/fieldlab* /etc/fieldlab* /usr/fieldlab* /var/field*")
        assert told.split() == [host.name] * 5
    for directory in (Path.home(), *map(Path, ("/tmp", "/etc", "/usr", "/var"))):  # noqa: S108
        assert not (directory / "fieldlab-was-here").exists()


def test_hosts_see_only_their_own_processes(lab):
    """Process 1 is the host's, and a process of one host is none of another, nor is its shared memory."""
    seen = {}
    pid = ask(lab.server, "sh", "-c", "setsid sleep 601 >/dev/null 2>&1 </dev/null & echo x > /dev/shm/x; echo $!")
    for host in lab.hosts:
        seen[host.name] = ask(host, "sh", "-c", "ps -e -o pid=,args= | grep 'sleep 60[1]' | wc -l; ls /dev/shm").split()
    ask(lab.server, "kill", pid)
    assert seen == {"server": ["1", "x"], "client-1": ["0"], "client-2": ["0"]}
    assert ask(lab.server, "ps", "-o", "pid=", "-p", "1") == "1"


def test_a_host_cannot_harm_the_machine(lab):
    """It sees no disks, cannot set the shared clock or load modules, and sets the kernel only for its own network."""
    status = ask(lab.server, "grep", "CapBnd", "/proc/self/status")
    bounding = int(status.split()[1], 16)
    assert [name for name, bit in NO_CAPABILITIES.items() if bounding >> bit & 1] == []
    with pytest.raises(CommandFailed, match="Read-only"):
        ask(lab.server, "sh", "-c", "exec 2>&1; echo 1 > /proc/sys/kernel/panic")
    ask(lab.server, "sh", "-c", "echo 4 > /proc/sys/net/ipv4/tcp_retries2")
    assert ask(lab.clients[0], "cat", "/proc/sys/net/ipv4/tcp_retries2") != "4"
    assert ask(lab.server, "find", "/dev", "-type", "b") == ""
    assert ask(lab.server, "sh", "-c", "ls /etc/ssh/ssh_host_*") == (
        "/etc/ssh/ssh_host_ed25519_key\n/etc/ssh/ssh_host_ed25519_key.pub"
    )


def test_python_and_its_packages_are_this_machines(lab):
    """Also where they lie in a home, which hosts do not see otherwise."""
    assert lab.server.python.path == sys.executable
    told = ask(lab.server, sys.executable, "-c", "import msgspec, sys; print(sys.version, msgspec.__version__)")
    assert told == f"{sys.version} {msgspec.__version__}"


def test_login_over_ipv6(lab):
    """The same host by its other address, with the same key."""
    addresses = addresses6(lab)
    if not addresses:
        pytest.skip("this machine does not speak IPv6")
    for host in lab.hosts:
        other = msgspec.structs.replace(host, host=addresses[host.name])
        assert ask(other, "sh", "-c", "hostname; echo ${SSH_CONNECTION%% *}").split()[0] == host.name


def test_hosts_reach_one_another_and_the_controller_reaches_all(lab):
    """The server's port from the clients and from here, the clients' SSH from the server; by name too."""
    assert lab.server_address == f"{lab.server.host}:8080"
    listening, serving = threading.Event(), ssh.connect(lab.server)
    argv = [sys.executable, "-c", SERVE, "3"]
    thread = threading.Thread(
        target=serving.run, args=(argv,), kwargs={"step": "serve", "on_line": lambda _: listening.set()}
    )
    with serving:
        thread.start()
        assert listening.wait(10)
        for client, name in zip(lab.clients, ("server", lab.server.host), strict=True):
            assert ask(client, sys.executable, "-c", CALL, name, "8080") == f"hello {client.host}"
        with socket.create_connection((lab.server.host, 8080), timeout=10) as called:
            assert called.recv(100).decode() == f"hello {lab.server.host.rpartition('.')[0]}.254"
        thread.join(10)
        assert not thread.is_alive()
    for client in lab.clients:
        assert ask(lab.server, sys.executable, "-c", CALL, client.name, "22").startswith("SSH-2.0-OpenSSH")


def test_there_is_no_way_out(lab):
    """A host has routes to the lab alone."""
    for family, net in (("-4", r"198\.1[89]\.\d+\.0/24"), ("-6", r"f[de][0-9a-f:]+::/64")):
        routes = json.loads(ask(lab.clients[0], "ip", "-json", family, "route") or "[]")
        assert all(re.fullmatch(net, route["dst"]) for route in routes), routes
    with pytest.raises(CommandFailed, match="unreachable"):
        ask(lab.clients[0], "sh", "-c", "ip route get 203.0.113.1 2>&1")


def test_a_share_of_the_processor_slows(lab):
    """A quarter of a core takes four times as long over the same arithmetic."""
    slow, fast = lab.clients
    pairs = {host.name: [[float(x) for x in ask(host, sys.executable, "-c", SPIN).split()]] for host in (slow, fast)}
    for _ in range(2):
        for host in (slow, fast):
            pairs[host.name].append([float(x) for x in ask(host, sys.executable, "-c", SPIN).split()])
    stretched = {name: min(wall / cpu for wall, cpu in told) for name, told in pairs.items()}
    # Whatever else runs on this machine stretches both; it cannot give the slow one more than its share.
    assert 3.3 < stretched[slow.name] < 6 * stretched[fast.name]


def test_commands_have_default_signals(lab):
    """What the controller's own process ignores (nohup, a job of a script) is not inherited."""
    ignored = int(ask(lab.server, "grep", "SigIgn", "/proc/self/status").split()[1], 16)
    assert [number for number in range(1, 32) if ignored >> (number - 1) & 1] == []


def test_what_is_detached_outlives_the_connection_and_is_reaped(lab):
    """As under a real init: an orphan's exit leaves no zombie, by which `kill -0` would take it for alive."""
    script = "setsid sleep 602 >/dev/null 2>&1 </dev/null & echo $!"
    pid = ask(lab.clients[1], "sh", "-c", script)
    assert ask(lab.clients[1], "ps", "-o", "args=", "-p", pid) == "sleep 602"
    until = 'kill "$0"; while kill -0 "$0" 2>/dev/null; do :; done'
    ask(lab.clients[1], "timeout", "10", "sh", "-c", until, pid)


def test_large_transfers_and_real_defaults(lab):
    """Bytes arrive as they were sent; sshd is OpenSSH's, with its own limits."""
    sink = io.BytesIO()
    with ssh.connect(lab.clients[1]) as remote:
        assert remote.get(["head", "-c", "5000000", "/dev/zero"], sink, step="get") == 5_000_000
    assert sink.getvalue() == bytes(5_000_000)
    assert ask(lab.server, "sh", "-c", "/usr/sbin/sshd -T | grep ^maxstartups") == "maxstartups 10:30:100"


def test_two_labs_stand_side_by_side(lab, make_lab, clean):
    """Each in its own network, with its own keys."""
    with netns_lab(make_lab()) as other:
        assert {host.host for host in other.hosts}.isdisjoint(host.host for host in lab.hosts)
        assert ask(other.server, "hostname") == ask(lab.server, "hostname") == "server"
        assert Path(other.server.ssh.identity_file).read_text() != Path(lab.server.ssh.identity_file).read_text()
        assert ask(other.server, "cat", "/etc/ssh/ssh_host_ed25519_key.pub") != ask(
            lab.server, "cat", "/etc/ssh/ssh_host_ed25519_key.pub"
        )
    assert clean() == set()
    assert ask(lab.server, "hostname") == "server"


def test_hosts_with_a_fault_of_their_own(make_lab, clean):
    """What tests of bad hosts need: no room, no writing, no Python, another user with another shell."""
    shell = "/usr/bin/dash" if Path("/usr/bin/dash").exists() else "/bin/sh"
    extras = {
        "server": Extras(home_mb=4),
        "client-1": Extras(read_only_home=True, without=("python3", "python")),
        "client-2": Extras(users={"kim": shell}),
    }
    with netns_lab(make_lab(2), extras) as faulty:
        server, first, second = faulty.hosts
        with pytest.raises(CommandFailed, match="No space left"):
            ask(server, "sh", "-c", "exec 2>&1; head -c 8000000 /dev/zero > ~/big")
        with pytest.raises(CommandFailed, match="Read-only file system"):
            ask(first, "sh", "-c", "exec 2>&1; echo > ~/x")
        with pytest.raises(CommandFailed):
            ask(first, "sh", "-c", "command -v python3")
        assert ask(server, "sh", "-c", "command -v python3")
        kim = msgspec.structs.replace(second, ssh=msgspec.structs.replace(second.ssh, user="kim"))
        assert ask(kim, "sh", "-c", "pwd; whoami; echo $SHELL; echo x > ~/x; stat -c %U ~/x").split() == [
            "/home/kim",
            "kim",
            shell,
            "kim",
        ]
    assert clean() == set()
