"""`deploy check` over real SSH: what it says of hosts is true, what it starts there ends, and nothing is left."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import pytest

from deploy import hostside
from deploy.app import embedded
from deploy.checking import check_lab
from deploy.errors import HostError
from deploy.facts import look
from deploy.inventory import Host, Inventory, Python, Ssh
from deploy.remote import ssh
from deploy.shaping import Wish
from flcommon import process
from flcommon.job import Shaping
from flcommon.link import Link, Step, Steps, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.checking import Checked

PAYLOAD = embedded("flclient.apps.payload")
HARMLESS = {"clock-unsynchronised", "tc", "netem", "sudo", "governor", "throttled", "sleep"}
"""What this machine itself may be found to have, wherever the tests run."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def bench(openssh, tmp_path: Path) -> Callable[..., Inventory]:
    """Give a lab of OpenSSH servers on loopback: a server and two clients, each with a work directory of its own."""
    ports = [openssh.start() for _ in range(3)]

    def host(name: str, port: int, **changed: object) -> Host:
        login = Ssh(
            user=getpass.getuser(),
            port=port,
            identity_file=str(openssh.identity_file),
            known_hosts=str(openssh.known_hosts),
        )
        role = "server" if name == "server" else "client"
        settings = {"ssh": login, "python": Python(path=sys.executable), "workdir": str(tmp_path / name), **changed}
        return Host(name=name, role=role, host="127.0.0.1", **settings)

    def make(address: str | None = None, **changed: dict[str, object]) -> Inventory:
        server, *clients = (
            host(name, port, **changed.get(name.replace("-", "_"), {}))
            for name, port in zip(("server", "pi-a", "pi-b"), ports, strict=True)
        )
        return Inventory(
            file=tmp_path / "lab.yaml",
            lab="bench",
            playbook=None,
            server=server,
            server_address=address or f"127.0.0.1:{free_port()}",
            clients=tuple(clients),
        )

    return make


@pytest.fixture(autouse=True)
def _no_listener_stays() -> Iterator[None]:
    """Whatever a check starts on a host has ended, or ends, when its connections are closed."""
    yield
    ours = {hostside.source("listen"), hostside.source("reach")}
    left = [one for one in psutil.process_iter() if ours & set(_words(one))]
    _, alive = psutil.wait_procs(left, timeout=10)
    assert alive == []


def _words(one: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return one.cmdline()
    return []


def codes(checked: Checked) -> dict[str, set[str]]:
    """Return what was found of each host, but for what this machine may really have."""
    found = {name: {one.code for one in some} - HARMLESS for name, some in checked.findings.items()}
    return {name: some for name, some in found.items() if some}


def test_a_virtual_lab_is_ready(lab: Inventory) -> None:
    """All hosts at once; each one's clock is this machine's, so zero lies within the uncertainty."""
    checked = check_lab(lab, PAYLOAD, ssh.connect)
    assert codes(checked) == {}
    assert checked.ok
    for seen in checked.seen.values():
        assert abs(seen.clock.offset_s) <= seen.clock.error_s
        assert seen.facts.cpus == os.cpu_count()
    assert {checked.seen[client.name].health.interface for client in lab.clients} == {"lo"}


def test_openssh_hosts_are_ready_and_unchanged(bench) -> None:
    """The server's port has been tried by each client; no work directory was made."""
    lab = bench()
    assert codes(check_lab(lab, PAYLOAD, ssh.connect)) == {}
    assert not any(Path(host.workdir).exists() for host in lab.hosts)


def test_the_server_may_have_a_name(bench) -> None:
    """Then it listens on all addresses, as the campaign's server will."""
    assert codes(check_lab(bench(f"localhost:{free_port()}"), PAYLOAD, ssh.connect)) == {}


def test_a_port_in_use_is_an_error_that_names_who_has_it(bench) -> None:
    """Here: this very process."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        checked = check_lab(bench(f"127.0.0.1:{other.getsockname()[1]}"), PAYLOAD, ssh.connect)
    assert codes(checked) == {"server": {"port-in-use"}}
    (found,) = (one for one in checked.findings["server"] if one.code == "port-in-use")
    assert f"(pid {os.getpid()})" in found.what
    assert not checked.ok


def test_an_address_that_is_not_the_servers_is_an_error(bench) -> None:
    """As behind a router that forwards a port: the server cannot listen there."""
    checked = check_lab(bench("192.0.2.1:8080"), PAYLOAD, ssh.connect)
    assert codes(checked) == {"server": {"port"}}
    (found,) = (one for one in checked.findings["server"] if one.code == "port")
    assert "192.0.2.1:8080" in found.what
    assert "lab.yaml" in found.fix


def test_a_host_that_is_not_there_keeps_no_other_from_being_checked(bench, openssh) -> None:
    """No server on its port, a key that nobody knows: findings of those hosts; the third is looked at."""
    openssh.known_hosts.write_text(openssh.known_hosts.read_text().splitlines()[0] + "\n")
    whole = bench()
    dark = msgspec.structs.replace(
        whole.clients[1], ssh=msgspec.structs.replace(whole.clients[1].ssh, port=free_port())
    )
    checked = check_lab(msgspec.structs.replace(whole, clients=(whole.clients[0], dark)), PAYLOAD, ssh.connect)
    assert codes(checked) == {"pi-a": {"host-key"}, "pi-b": {"connect"}}
    (unknown,), (refused,) = checked.findings["pi-a"], checked.findings["pi-b"]
    assert "SSH host key" in unknown.what
    assert "refused" in refused.what
    assert f"ssh -p {dark.ssh.port}" in refused.fix


def program(place: Path, name: str, text: str) -> Python:
    file = place / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return Python(path=str(file))


def test_pythons_that_cannot_be_used(bench, tmp_path: Path) -> None:
    """None, one from long ago, one that says nothing sensible: a finding each, with all else that the host tells."""
    as_old = f'shift; code=$1; shift; exec {sys.executable} -c "import sys; sys.version_info = (3, 5, 2)\n$code" "$@"'
    lab = bench(
        server={"python": Python(path="/no/such/python3")},
        pi_a={"python": program(tmp_path, "old", as_old)},
        pi_b={"python": program(tmp_path, "garbage", "echo Segmentation fault")},
    )
    checked = check_lab(lab, PAYLOAD, ssh.connect)
    assert codes(checked) == {"server": {"python"}, "pi-a": {"python"}, "pi-b": {"look"}}
    assert "there is no Python at /no/such/python3" in {one.what for one in checked.findings["server"]}
    assert "Python 3.5.2 is too old" in {one.what for one in checked.findings["pi-a"]}
    (garbage,) = checked.findings["pi-b"]
    assert "an answer that cannot be understood: 'Segmentation fault" in garbage.what
    assert checked.seen["server"].facts.machine == os.uname().machine
    assert checked.seen["server"].facts.python == ""
    assert all(one.fix for found in checked.findings.values() for one in found)


def test_a_32_bit_python_is_told_what_to_install(bench, tmp_path: Path) -> None:
    """On a 64-bit kernel with a 32-bit system."""
    narrow = f'shift; code=$1; shift; exec {sys.executable} -c "import sys; sys.maxsize = 2**31 - 1\n$code" "$@"'
    checked = check_lab(bench(pi_b={"python": program(tmp_path, "python3", narrow)}), PAYLOAD, ssh.connect)
    assert codes(checked) == {"pi-b": {"bits"}}


def test_a_campaign_that_runs_is_seen_by_the_look(bench) -> None:
    """In the same round trip, and without any code of ours on the host: by the process's identity."""
    host = bench().clients[0]
    place = Path(host.workdir) / "campaigns" / "c1" / host.name
    place.mkdir(parents=True)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        (place / "process.json").write_bytes(msgspec.json.encode(process.identify(child.pid)))
        with ssh.connect(host) as remote:
            assert look(host, remote).running == (str(place),)
            child.communicate(timeout=10)
            assert look(host, remote).running == ()


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Path]:
    """Give a directory on a read-only file system, as of a Raspberry Pi whose card has failed."""
    place = tmp_path / "sealed"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", place], check=False).returncode:
        pytest.skip("only root may mount a file system")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("python", [sys.executable, "/no/such/python3"])
def test_a_read_only_home(bench, sealed: Path, python: str) -> None:
    """Said before anything is pushed, by Python and by the shell alike; root is no exception."""
    lab = bench(pi_a={"workdir": str(sealed / ".fieldlab"), "python": Python(path=python)})
    checked = check_lab(lab, PAYLOAD, ssh.connect)
    (found,) = (one for one in checked.findings["pi-a"] if one.code == "workdir")
    assert str(sealed / ".fieldlab") in found.what
    assert checked.seen["pi-a"].facts.read_only is (python == sys.executable)


# --- the port's two scripts, by themselves ---------------------------------------------------------------------------


def reach(host: str, port: int, word: str = "word", patience: str = "5") -> tuple[str, str]:
    argv = [sys.executable, "-c", hostside.source("reach"), host, str(port), word, patience]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return found["problem"], found["why"]


@contextlib.contextmanager
def listener(place: str, seconds: str = "60") -> Iterator[tuple[subprocess.Popen[str], dict]]:
    argv = [sys.executable, "-c", hostside.source("listen"), place, "word", seconds]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("place", "hosts"), [("[::]:0", ["127.0.0.1", "::1", "localhost"]), ("127.0.0.1:0", ["127.0.0.1"])]
)
def test_a_listener_is_reached(place: str, hosts: list[str]) -> None:
    """By as many as come, over IPv4 and IPv6; also after one that has hung up at once."""
    with listener(place) as (_, told):
        with socket.create_connection((hosts[0], told["port"])) as rude:
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert [reach(host, told["port"]) for host in hosts] == [("", "")] * len(hosts)
        assert reach(hosts[0], told["port"], "other") == ("other", "something else answers there")


def test_a_listener_ends_with_its_reader() -> None:
    """When the SSH channel closes, nobody reads its output: it need not say anything more to notice."""
    with listener("127.0.0.1:0") as (process, _):
        process.stdout.close()
        assert process.wait(10) == 0


def test_a_listener_ends_by_itself() -> None:
    """Whatever becomes of the controller."""
    with listener("127.0.0.1:0", seconds="0.05") as (process, _):
        assert process.wait(10) == 0


def test_who_is_not_reached() -> None:
    """Nobody there, somebody who never answers, a name that is none: each is told from the others."""
    assert reach("127.0.0.1", free_port()) == ("refused", "Connection refused")
    assert reach("a..b", 1)[0] == "name"
    with socket.create_server(("127.0.0.1", 0)) as mute:  # the kernel accepts, and nobody speaks
        assert reach("127.0.0.1", mute.getsockname()[1], patience="0.2") == ("silent", "no answer within 0.2 s")


def test_a_lost_server_is_a_finding(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks while the listener starts: said, and no client waits for it."""

    def run(self, argv, *, step, stdin=b"", on_line=None) -> str:  # noqa: ARG001 - the verb's signature
        raise HostError(self.host, step, "the connection was lost")

    monkeypatch.setattr(ssh.SshRemote, "run", run)
    checked = check_lab(bench(), PAYLOAD, ssh.connect)
    assert codes(checked) == {"server": {"reach"}}


def wish(layer: Any) -> Wish:
    both = Way(delay_ms=5)
    return Wish(layer, (Link(course=Steps(steps=(Step(up=both, down=both),))),))


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
def test_hosts_of_one_machine_get_relays(bench, address):
    """Over IPv4 and IPv6: their interfaces are known, and that they share them; the kernel cannot be forced on them."""
    lab = bench(f"{address}:{free_port()}")
    checked = check_lab(lab, PAYLOAD, ssh.connect, wished={"pi-a": wish("auto"), "pi-b": wish("kernel")})
    assert {name: one.shaping for name, one in checked.layers.items()} == {"pi-a": Shaping(layer="relay"), "pi-b": None}
    found = {name: [(one.level, one.code) for one in checked.findings[name]] for name in ("pi-a", "pi-b")}
    assert ("note", "shared") in found["pi-a"]
    assert ("error", "shared") in found["pi-b"]
    assert checked.seen["pi-a"].facts.stack == checked.seen["server"].facts.stack != ""
    assert checked.seen["pi-a"].health.traffic.interface == "lo"
    assert checked.seen["server"].health.traffic is None


def test_an_interface_that_a_host_does_not_have(bench):
    """The known ones are named."""
    checked = check_lab(bench(pi_a={"interface": "wlan9"}), PAYLOAD, ssh.connect, wished={"pi-a": wish("relay")})
    (found,) = (one for one in checked.findings["pi-a"] if one.code == "interface")
    assert found.level == "error"
    assert "there is no interface 'wlan9'" in found.what
    assert "lo" in found.what
