"""One step of bench/fanout.py by this toolkit's own functions, in a process of its own.

python bench/fanout_ours.py STEP PLAN.json      STEP: import (nothing but that), look, push, pull or job
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from deploy.bundle import Bundle, make_bundle, push
from deploy.facts import Facts, look
from deploy.inventory import Host, Python, Ssh
from deploy.pull import Wanted, pull
from deploy.remote.fanout import NARROW, connect_all, fan_out
from deploy.remote.protocol import Remote
from deploy.remote.ssh import connect

Remotes = dict[str, Remote]
START = 'mkdir -p "$1"; setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $! >"$1/pid"'


class Station(msgspec.Struct, frozen=True):
    """A host of the benchmark: an sshd on loopback, and its directory."""

    name: str
    port: int
    directory: str


class Plan(msgspec.Struct, frozen=True):
    """All that a step needs; `out` is where looks and pulled files go, `logs` the names of what is pulled."""

    stations: tuple[Station, ...]
    user: str
    identity_file: str
    known_hosts: str
    python: str
    tree: str
    out: str
    logs: tuple[str, ...]

    def hosts(self) -> dict[str, Host]:
        """Return them as an inventory has them; the first is the server."""
        return {
            station.name: Host(
                name=station.name,
                role="client" if number else "server",
                host="127.0.0.1",
                ssh=Ssh(
                    user=self.user,
                    port=station.port,
                    identity_file=self.identity_file,
                    known_hosts=self.known_hosts,
                ),
                python=Python(path=self.python),
                workdir=f"{station.directory}/ours",
            )
            for number, station in enumerate(self.stations)
        }


def main() -> None:
    """Do one step."""
    step, file = sys.argv[1:]
    plan = msgspec.json.decode(Path(file).read_bytes(), type=Plan)
    if step != "import":
        with connect_all(plan.hosts().values(), connect) as remotes:
            do(step, plan, remotes)


def do(step: str, plan: Plan, remotes: Remotes) -> None:
    """Do what comes after connecting: all hosts are looked at before any is changed, then each goes its own way."""
    if step == "look":
        look_at(plan, remotes)
    elif step == "pull":
        fan_out(remotes, lambda remote: pull_logs(plan, remote), width=NARROW)
    else:
        facts = look_at(plan, remotes)
        bundle = make_bundle({"tree": Path(plan.tree)})
        fan_out(remotes, lambda remote: change(step, plan, remote, facts[remote.host], bundle), width=NARROW)


def change(step: str, plan: Plan, remote: Remote, facts: Facts, bundle: Bundle) -> None:
    """Push to one host; for a whole job, start something there and pull its logs."""
    push(remote, facts, bundle)
    if step == "job":
        remote.run(["sh", "-c", START, "start", facts.workdir], step=step)
        pull_logs(plan, remote)


def look_at(plan: Plan, remotes: Remotes) -> dict[str, Facts]:
    """Look at all hosts, and keep what they said."""
    hosts = plan.hosts()
    facts = fan_out(remotes, lambda remote: look(hosts[remote.host], remote))
    for name, found in facts.items():
        Path(plan.out, f"{name}.look").write_bytes(msgspec.json.encode(found))
    return facts


def pull_logs(plan: Plan, remote: Remote) -> None:
    """Pull one host's logs into a directory of its name."""
    directory = next(station.directory for station in plan.stations if station.name == remote.host)
    pull(remote, plan.python, f"{directory}/logs", Path(plan.out, remote.host), Wanted(plan.logs))


if __name__ == "__main__":
    main()
