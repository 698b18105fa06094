"""Ways to a host: IPv6, jump hosts of the inventory, and what they cost in round trips."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest

from deploy.remote import ssh
from deploy.remote.route import jump_hosts

if TYPE_CHECKING:
    from conftest import Bench


def test_ipv6(bench: Bench) -> None:
    port = bench.openssh.free_port()
    try:
        bench.start(ListenAddress=f"[::1]:{port}")
    except OSError:
        pytest.skip("no IPv6 here")
    bench.know_as(f"[::1]:{port}")
    with ssh.connect(msgspec.structs.replace(bench.host(port), host="::1")) as remote:
        assert remote.read(["echo", "six"], step="look") == "six\n"


def test_jump_hosts_of_the_inventory(bench: Bench) -> None:
    """Two in a row; a host behind them is reached though ours is the only connection to the first."""
    first, second, target = (bench.start() for _ in range(3))
    host = bench.host(target, jump=f"root@127.0.0.1:{first},root@127.0.0.1:{second}")
    assert [(jump.name, jump.ssh.port) for jump in jump_hosts(host)] == [
        ("127.0.0.1", first),
        ("127.0.0.1", second),
    ]
    with ssh.connect(host) as remote:
        told = remote.read(["sh", "-c", "echo $SSH_CONNECTION"], step="look").split()
        assert told[3] == str(target)
        ours = {link.raddr.port for link in psutil.Process().net_connections("tcp") if link.status == "ESTABLISHED"}
        assert ours & {first, second, target} == {first}


def test_jump_host_with_an_unknown_key(bench: Bench) -> None:
    first, target = bench.start(), bench.start()
    lines = bench.openssh.known_hosts.read_text().splitlines()
    bench.openssh.known_hosts.write_text("\n".join(line for line in lines if f":{first} " not in line))
    reason = bench.refusal(bench.host(target, jump=f"root@127.0.0.1:{first}"))
    assert reason.startswith(f"the jump host 127.0.0.1:{first}: its SSH host key is not known yet")


def test_faults_of_a_jump_host_name_it(bench: Bench) -> None:
    """Told apart by their ports here: refused, not let in, and not let through."""
    first, target, nothing = bench.start(), bench.start(), bench.openssh.free_port()
    jump_refused = bench.refusal(bench.host(target, jump=f"root@127.0.0.1:{nothing}"))
    assert jump_refused.startswith(f"the jump host 127.0.0.1:{nothing}: connection refused")
    jump_locked = bench.refusal(bench.host(target, jump=f"nobody-there@127.0.0.1:{first}"))
    assert jump_locked.startswith(f"the jump host 127.0.0.1:{first}: authentication failed")
    assert "the jump host cannot reach" in bench.refusal(bench.host(nothing, jump=f"root@127.0.0.1:{first}"))


def test_a_host_is_not_its_own_jump_host(bench: Bench) -> None:
    """A lab-wide `jump` that names the server itself: the server is reached directly."""
    port = bench.start()
    host = bench.host(port, jump=f"127.0.0.1:{port}")
    assert jump_hosts(host) == ()
    with ssh.connect(host) as remote:
        assert remote.read(["echo", "in"], step="look") == "in\n"


def measured(bench: Bench, one_way_s: float) -> dict[str, float]:
    """The best of three, in seconds, over a relay with that delay."""
    best: dict[str, float] = {}

    def note(name: str, started: float) -> None:
        best[name] = min(best.get(name, 9.0), time.monotonic() - started)

    with bench.relayed(one_way_s) as (host, _):
        for _ in range(3):
            started = time.monotonic()
            with ssh.connect(host) as remote:
                note("connect", started)
                for name, stdin in (("first", b""), ("next", b""), ("with input", b"x")):
                    started = time.monotonic()
                    remote.read(["cat"], step="look", stdin=stdin)
                    note(name, started)
    return best


def test_round_trips(bench: Bench) -> None:
    """Counted as what a delay adds: a login in five (TCP's own included), a command in one, its input in one more.

    The first command comes right after the login and waits for its session to be opened: up to one more.
    """
    round_trip_s = 0.08
    near, far = measured(bench, 0.0), measured(bench, round_trip_s / 2)
    trips = {name: (far[name] - near[name]) / round_trip_s for name in near}
    most = {"connect": 5, "first": 2, "next": 1, "with input": 2}
    assert {name for name, count in most.items() if trips[name] > count + 0.45} == set(), trips
    assert trips["connect"] > 4
    assert trips["next"] > 0.7
