"""`deploy trust` against real servers: what is shown, what is recorded, and what never is."""

from __future__ import annotations

import shlex
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from deploy import trust
from deploy.cli import app
from deploy.errors import DeployError
from deploy.inventory import Inventory, load_inventory
from deploy.remote import ssh
from deploy.remote.route import jump_hosts
from deploy.trust import Routes, State

if TYPE_CHECKING:
    from conftest import Bench

    from deploy.inventory import Host

ROUTES = Routes(ssh.Connector(None).host_key, jump_hosts)


def lab_of(server: Host, *clients: Host) -> Inventory:
    named = tuple(msgspec.structs.replace(client, name=f"pi-{i}") for i, client in enumerate(clients))
    server = msgspec.structs.replace(server, name="server", role="server")
    return Inventory(
        file=Path("lab.yaml"), lab="bench", playbook=None, server=server, server_address="127.0.0.1:8080", clients=named
    )


def states(lab: Inventory) -> dict[str, State]:
    return {finding.host.name: finding.state for finding in trust.survey(lab, ROUTES).findings}


@pytest.fixture
def own(bench: Bench) -> Path:
    """The lab's own known_hosts: not there yet."""
    return bench.place / "lab_known_hosts"


def test_new_keys_are_shown_recorded_and_known(bench: Bench, own: Path) -> None:
    """The whole way: the fingerprint is OpenSSH's, nobody logs in, and afterwards a login needs no more."""
    lab = lab_of(*(bench.host(bench.start(), known_hosts=str(own)) for _ in range(3)))
    own.write_text("# by hand, without a newline at the end")
    found = trust.survey(lab, ROUTES)
    assert [finding.state for finding in found.findings] == [State.NEW] * 3
    assert not found.ok
    told = subprocess.run(["ssh-keygen", "-lf", bench.place / "host_key.pub"], capture_output=True, check=True)
    console = Console(width=200)
    with console.capture() as shown:
        console.print(found.table)
    assert shown.get().count(told.stdout.split()[1].decode()) == 3
    assert trust.record(found.new) == {own: 3}
    assert own.read_text().startswith("# by hand, without a newline at the end\n[127.0.0.1]:")
    assert stat.S_IMODE(own.stat().st_mode) == 0o600
    again = trust.survey(lab, ROUTES)
    assert again.ok
    assert again.new == ()
    assert trust.record(again.findings) == {}
    for host in lab.hosts:
        ssh.connect(host).close()
    argv = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={own}", "-i", bench.identity_file]
    subprocess.run([*argv, "-p", str(lab.server.ssh.port), "root@127.0.0.1", "true"], check=True, capture_output=True)


def test_nothing_is_written_by_looking(bench: Bench, own: Path) -> None:
    lab = lab_of(bench.host(bench.start(), known_hosts=str(own), identity_file=None))
    assert trust.survey(lab, ROUTES).new
    assert not own.exists()


def test_a_changed_key_is_never_recorded(bench: Bench, own: Path) -> None:
    """It is shown with the command that forgets the old one; after that it counts as new."""
    host = bench.host(bench.start(), known_hosts=str(own))
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", bench.place / "older"], check=True)
    own.write_text(f"[127.0.0.1]:{host.ssh.port} {(bench.place / 'older.pub').read_text()}")
    before, lab = own.read_text(), lab_of(host)
    found = trust.survey(lab, ROUTES)
    assert [finding.state for finding in found.findings] == [State.CHANGED]
    assert "CHANGED" in found.notes[0]
    assert (found.ok, found.new, trust.record(found.findings)) == (False, (), {})
    assert own.read_text() == before
    (forget,) = found.findings[0].shown.known.forget_commands()
    subprocess.run(shlex.split(forget), check=True, capture_output=True)
    assert states(lab) == {"server": State.NEW}


def test_a_revoked_key_is_not_new(bench: Bench, own: Path) -> None:
    host = bench.host(bench.start(), known_hosts=str(own))
    own.write_text(f"@revoked [127.0.0.1]:{host.ssh.port} {(bench.place / 'host_key.pub').read_text()}")
    assert states(lab_of(host)) == {"server": State.CHANGED}


def test_hosts_that_cannot_be_reached_keep_nobody_waiting(bench: Bench, own: Path) -> None:
    good, bad = bench.start(), bench.openssh.free_port()
    lab = lab_of(*(bench.host(port, known_hosts=str(own)) for port in (good, bad)))
    found = trust.survey(lab, ROUTES)
    assert [finding.state for finding in found.findings] == [State.NEW, State.UNREACHABLE]
    assert found.notes == (f"pi-0: {found.findings[1].reason}",)
    assert "connection refused" in found.findings[1].reason


def test_a_jump_host_comes_first(bench: Bench, own: Path) -> None:
    """It is a host of its own; what lies behind it waits until its key is recorded."""
    gateway, hidden = bench.start(), bench.start()
    lab = lab_of(bench.host(hidden, known_hosts=str(own), jump=f"root@127.0.0.1:{gateway}"))
    found = trust.survey(lab, ROUTES)
    assert [finding.state for finding in found.findings] == [State.NEW, State.UNREACHABLE]
    assert found.findings[0].address == f"[127.0.0.1]:{gateway}"
    trust.record(found.new)
    found = trust.survey(lab, ROUTES)
    assert [finding.state for finding in found.findings] == [State.KNOWN, State.NEW]
    trust.record(found.new)
    assert trust.survey(lab, ROUTES).ok
    ssh.connect(lab.server).close()


def test_a_link_stays_a_link(bench: Bench, own: Path) -> None:
    real = bench.place / "elsewhere"
    real.write_text("")
    own.symlink_to(real)
    trust.record(trust.survey(lab_of(bench.host(bench.start(), known_hosts=str(own))), ROUTES).new)
    assert own.is_symlink()
    assert real.read_text().startswith("[127.0.0.1]:")


def test_a_place_that_cannot_be_written(bench: Bench) -> None:
    lab = lab_of(bench.host(bench.start(), known_hosts=str(bench.place / "no" / "such" / "folder")))
    with pytest.raises(DeployError, match=r"no/such/folder: the host keys cannot be recorded: No such file"):
        trust.record(trust.survey(lab, ROUTES).new)


@pytest.fixture
def inventory(bench: Bench) -> Path:
    """A file that lists two hosts, with nothing beside it."""
    file = bench.place / "inventory" / "lab.yaml"
    file.parent.mkdir()
    first, second = bench.start(), bench.start()
    file.write_text(
        f"lab: bench\nssh: {{user: root, identity_file: {bench.identity_file}}}\n"
        f"server: {{host: 127.0.0.1, ssh: {{port: {first}}}}}\n"
        f"clients: {{pi-a: {{host: 127.0.0.1, ssh: {{port: {second}}}}}}}\n"
    )
    return file


def test_the_command_asks_before_it_records(inventory: Path) -> None:
    """And without a yes there is no file, and the exit status says that the lab is not trusted."""
    known = inventory.parent / "known_hosts"
    for answer in ("n\n", ""):
        refused = CliRunner().invoke(app, ["trust", str(inventory)], input=answer)
        assert refused.exit_code == 3, refused.output
        assert not known.exists()
    told = CliRunner().invoke(app, ["trust", str(inventory)], input="y\n")
    assert told.exit_code == 0, told.output
    assert "Record 2 new host keys as trusted?" in told.output
    assert len(known.read_text().splitlines()) == 2
    with ssh.connect(load_inventory(inventory).server) as remote:
        assert remote.read(["echo", "in"], step="look") == "in\n"


def test_the_command_never_records_what_has_changed(inventory: Path, bench: Bench) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", bench.place / "older"], check=True)
    known = inventory.parent / "known_hosts"
    port = load_inventory(inventory).server.ssh.port
    changed = f"[127.0.0.1]:{port} {(bench.place / 'older.pub').read_text()}"
    known.write_text(changed)
    told = CliRunner().invoke(app, ["trust", "--yes", str(inventory)])
    assert told.exit_code == 3
    assert "CHANGED" in told.output
    assert f"ssh-keygen -R '[127.0.0.1]:{port}' -f {known}; then: deploy trust {inventory}" in told.output
    assert known.read_text().startswith(changed)
    assert len(known.read_text().splitlines()) == 2
