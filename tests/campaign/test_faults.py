"""What `up` promises when something goes wrong: one clear error, nothing left running, what was measured is kept."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess

import msgspec
import pytest

from deploy.errors import CampaignError, HostError
from flcommon import events

LONG = """
playbook: long
app: flclient.apps.payload
probe: off
run_config: {payload-bytes: 1000}
rounds: 100000
"""


def test_a_port_in_use_names_server_and_address(bench, recorder):
    """The server's port is taken: the error says which host, at which step, and which address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CampaignError, match=rf"^server: listen: cannot listen on {address}: the port is in use"):
            bench.up(recorder(), bend=lambda lab: msgspec.structs.replace(lab, server_address=address))


def test_an_unreachable_host_is_named(bench, recorder):
    """Nothing is started anywhere when a host cannot be reached."""
    view = recorder()
    with socket.create_server(("127.0.0.1", 0)) as closing:
        port = closing.getsockname()[1]
    with pytest.raises(HostError, match=r"^client-2: connect: .*refused"):
        bench.up(view, bend=lambda lab: _with_client(lab, 1, port=port))
    assert view.directory is None


def test_a_server_killed_in_a_round_ends_the_campaign(bench, recorder, pid_of):
    """The clients see their stream break; the error names the server as the cause."""
    view = recorder(events.RoundStarted, lambda _: os.kill(pid_of("server"), signal.SIGKILL))
    with pytest.raises(CampaignError, match=r"server: run: the process was killed by SIGKILL"):
        bench.up(view, LONG)
    assert bench.manifest(view).status == "failed"


def test_an_interrupt_stops_everything_and_keeps_the_logs(bench, recorder):
    """Ctrl-C is no error of the campaign: it is written down as interrupted."""
    # A test run that was itself started in the background of a script ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    view = recorder(events.RoundStarted, lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        bench.up(view, LONG)
    assert bench.manifest(view).status == "interrupted"
    assert any(isinstance(one, events.RoundEnded) for one in bench.log(view, "server"))


def test_a_python_that_is_not_there_is_named(bench, recorder):
    """The interpreter that the inventory names is missing."""
    with pytest.raises(HostError, match=r"^client-1: look: there is no Python at /no/such/venv"):
        bench.up(recorder(), bend=lambda lab: _with_client(lab, 0, python="/no/such/venv"))


def test_an_app_that_lacks_its_data_says_so(bench, recorder, tmp_path):
    """An error inside the app reaches the user in one sentence, with the place and the end of the host's stderr."""
    playbook = f"""
playbook: no-data
app: flclient.apps.cifar10
probe: off
data: {{set: cifar10, path: {tmp_path / "nothing"}}}
rounds: 1
"""
    with pytest.raises(CampaignError, match=r"nothing") as caught:
        bench.up(recorder(), playbook)
    assert "Traceback" not in str(caught.value).splitlines()[0]


@pytest.fixture
def small_disk(tmp_path):
    """Give a file system of 96 MB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_host_without_room_is_found_before_anything_is_pushed(bench, recorder, small_disk):
    """A look at the disk comes first, and says how much room is wanted."""
    _fill(small_disk, leave_bytes=2**20)
    with pytest.raises(HostError, match=r"^client-1: look: only 1 MB of disk are free; make room: at least 64 MB"):
        bench.up(recorder(), bend=lambda lab: _with_client(lab, 0, workdir=str(small_disk)))


def test_a_disk_that_fills_up_on_all_clients_ends_the_campaign(bench, recorder, small_disk):
    """Clients whose logs cannot be written end; with the last of them the campaign does, and what was measured is kept.

    Nobody waits for the server, which gives them time to come back.
    """
    view = recorder(events.RoundStarted, lambda _: _fill(small_disk, leave_bytes=0))

    def bend(lab):
        for number in range(len(lab.clients)):
            lab = _with_client(lab, number, workdir=str(small_disk / f"{number}"))
        return lab

    with pytest.raises(CampaignError, match=r"client-") as caught:
        bench.up(view, LONG, bend=bend)
    assert "No space left on device" in str(caught.value) or "the disk is full" in str(caught.value)
    assert any(isinstance(one, events.RoundEnded) for one in bench.log(view, "server"))


def _fill(place, leave_bytes):
    """Fill a file system but for some bytes."""
    free = shutil.disk_usage(place).free - leave_bytes
    with (place / "ballast").open("wb", buffering=0) as file:
        try:
            while free > 0:
                free -= file.write(bytes(min(free, 2**16)))
        except OSError:
            return


def _with_client(lab, number, *, port=None, python=None, workdir=None):
    """Return the lab with one client's port, interpreter or work directory replaced."""
    client = lab.clients[number]
    changed = msgspec.structs.replace(
        client,
        ssh=msgspec.structs.replace(client.ssh, port=port or client.ssh.port),
        python=msgspec.structs.replace(client.python, path=python or client.python.path),
        workdir=workdir or client.workdir,
    )
    clients = tuple(changed if one is client else one for one in lab.clients)
    return msgspec.structs.replace(lab, clients=clients)
