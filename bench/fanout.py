"""What it costs to reach many hosts: this toolkit beside OpenSSH, rsync, ansible-core and pyinfra, in one run.

    python bench/fanout.py [--hosts 50] [--repeats 5] [--quick] [--peers VENV] [--rtt-ms 40] [--markdown FILE]

N real OpenSSH servers on loopback. Every run is a fresh process, its result is checked byte for byte, and the peers
take turns (A B C A B C …), so that a slow minute of the machine hits all of them; a ratio is the median of those within
one turn, with its extremes. Hosts and controller share this machine's cores: CPU seconds are the controller's alone.

`--peers` names a virtual environment with ansible-core and pyinfra. `--rtt-ms` also puts a relay in front of the hosts,
and counts round trips: how much longer a step takes, divided by the round trip.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import fanout_hosts
from fanout_figures import Figures, Results, markdown, medians, met, spread, turns
from fanout_peers import BENCH, Ansible, OpenSsh, Ours, Peer, Pyinfra, Run
from processes import REPOSITORY, TIMEOUT_S, BenchmarkFailed, exit_status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout_hosts import Lab

TAR, RSYNC, TUNED_RSYNC, ANSIBLE = "OpenSSH + tar", "rsync as it comes", "OpenSSH + rsync", "ansible-core"
CPU_MS_PER_HOST, PEAK_MB = 10.0, 250.0


@dataclass(frozen=True)
class Scenario:
    """A row of the table: the peer's step, and what its hosts have before: nothing, the same, or an older tree."""

    name: str
    step: str
    before: str
    bars: dict[str, float] = field(default_factory=dict)


SCENARIOS = (
    Scenario("connect, look", "look", "nothing", {TAR: 1.1}),
    Scenario("cold push", "push", "nothing", {TAR: 1.1, RSYNC: 0.5, TUNED_RSYNC: 0.5}),
    Scenario("warm push", "push", "the same", {TAR: 1.1, RSYNC: 0.5, TUNED_RSYNC: 0.5}),
    Scenario("one file changed", "push", "older"),
    Scenario("pull 5 x 2 MB", "pull", "nothing", {TAR: 0.6}),
    Scenario("whole job", "job", "nothing", {TAR: 0.6, ANSIBLE: 1 / 15}),
)


def main() -> int:
    """Measure and print; return the exit status."""
    asked = _arguments().parse_args()
    peers, missing = find_peers(asked.peers)
    text = [f"{machine()} · {asked.hosts} hosts\n", *(f"{line}\n" for line in missing)]
    with fanout_hosts.hosts(asked.hosts) as lab:
        slow = 1 if asked.quick else asked.repeats
        results = measure(lab, peers, asked.repeats, slow)
        text += [table(results, peers), ratios(results, peers), bars(results, asked.hosts)]
    if asked.rtt_ms:
        text.append(round_trips(asked.rtt_ms, asked.repeats))
    print("\n".join(text))
    if asked.markdown:
        asked.markdown.write_text("\n".join(text))
    return 0


def machine() -> str:
    """Return one line on what was measured on."""
    ssh = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr.split(",")[0]
    cores, load = os.cpu_count(), os.getloadavg()[0]
    return f"{platform.machine()} · {cores} cores, load {load:.1f} · Python {platform.python_version()} · {ssh}"


def find_peers(venv: Path | None) -> tuple[list[Peer], list[str]]:
    """Return what can be compared here, and a line for each that cannot."""
    peers: list[Peer] = [Ours()]
    missing = []
    for peer, program in (
        (OpenSsh("tar"), "tar"),
        (OpenSsh("rsync"), "rsync"),
        (OpenSsh("rsync", tuned=False), "rsync"),
    ):
        if shutil.which(program):
            peers.append(peer)
        else:
            missing.append(f"{peer.name} is left out: {program} is not installed")
    others: tuple[tuple[Callable[[Path], Peer], str], ...] = ((Ansible, "ansible-playbook"), (Pyinfra, "pyinfra"))
    for make, program in others:
        if venv is not None and (venv / "bin" / program).exists():
            peers.append(make(venv.resolve()))
        else:
            missing.append(f"{program} is left out: give --peers VENV, in which ansible-core and pyinfra are installed")
    return peers, missing


def measure(lab: Lab, peers: Sequence[Peer], repeats: int, slow_repeats: int) -> Results:
    """Let the peers take turns at every scenario."""
    results: Results = {}
    for turn in range(repeats):
        for scenario in SCENARIOS:
            for peer in peers:
                if turn < slow_repeats or not peer.slow:
                    print(f"turn {turn + 1}: {scenario.name}: {peer.name}", file=sys.stderr)
                    found = once(lab, peer, scenario)
                    results.setdefault((scenario.name, peer.name), []).append(found)
    return results


def once(lab: Lab, peer: Peer, scenario: Scenario) -> Figures:
    """Bring the hosts into the state before, run one step, and check what it did; raises BenchmarkFailed."""
    prepare(lab, peer, scenario.before)
    run = Run(lab, lab.tree, _empty(lab.place / "o"))
    found = timed(peer.command(scenario.step, run), run)
    check(run, peer, scenario.step)
    return found


def timed(command: Sequence[str], run: Run) -> Figures:
    """Run a command in a fresh process; raises BenchmarkFailed."""
    result = run.lab.place / "result.json"
    log = run.lab.place / "log"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    argv = [sys.executable, "-I", "-S", str(BENCH / "measure.py"), str(result), *command]
    with log.open("wb") as file, subprocess.Popen(argv, stdout=file, stderr=file, env=environment) as process:
        try:
            status = process.wait(TIMEOUT_S)
        except BaseException:
            process.terminate()  # it then ends what it has started, and is waited for
            raise
    if status != 0:
        raise BenchmarkFailed(f"exit status {status} from: {' '.join(command)[:300]}\n{_tail(log)}")
    told = json.loads(result.read_text())
    return Figures(told["wall_s"], told["cpu_s"], told["peak_mb"])


def prepare(lab: Lab, peer: Peer, before: str) -> None:
    """Leave nothing of a peer on the hosts but, if asked, a tree that was pushed before."""
    for station in lab.stations:
        shutil.rmtree(Path(station.directory, peer.directory), ignore_errors=True)
    if before == "nothing":
        return
    tree = lab.tree if before == "the same" else lab.older
    run = Run(lab, tree, _empty(lab.place / "o"))
    if isinstance(peer, Ours):
        timed(peer.command("push", run), run)
    else:
        for station in lab.stations:
            shutil.copytree(tree, Path(station.directory, peer.pushed(run)))
    check(run, peer, "push")


def check(run: Run, peer: Peer, step: str) -> None:
    """Compare what a step did with what it should have done, byte for byte; raises BenchmarkFailed."""
    for station in run.lab.stations:
        if step in ("push", "job"):
            _compare(run.tree, Path(station.directory, peer.pushed(run)))
        if step in ("pull", "job"):
            _compare(Path(station.directory, "logs"), run.out / station.name)
        if step == "job":
            fanout_hosts.end_started(station, peer.directory)
        if step in ("look", "job") and not peer.slow:
            json.loads((run.out / f"{station.name}.look").read_text())


def _compare(wanted: Path, found: Path) -> None:
    if _contents(wanted) != _contents(found):
        raise BenchmarkFailed(f"{found} is not what {wanted} is")


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])


def table(results: Results, peers: Sequence[Peer]) -> str:
    """Show the medians."""
    rows = [["wall s / CPU s / MB, medians", *(peer.name for peer in peers)]]
    for scenario in SCENARIOS:
        cells = (results[scenario.name, peer.name] for peer in peers)
        rows.append([scenario.name, *(medians(found) for found in cells)])
    return markdown(rows)


def ratios(results: Results, peers: Sequence[Peer]) -> str:
    """Show how long this toolkit takes beside each peer, within a turn."""
    rows = [["wall, ours to theirs", *(peer.name for peer in peers[1:])]]
    rows += [
        [scenario.name, *(spread(turns(results, scenario.name, peer.name)) for peer in peers[1:])]
        for scenario in SCENARIOS
    ]
    return markdown(rows)


def bars(results: Results, hosts: int) -> str:
    """Say which of the bars that this project has set itself are met."""
    rows = [["bar", "wanted", "measured", ""]]
    for scenario in SCENARIOS:
        for peer, most in scenario.bars.items():
            if (scenario.name, peer) in results:
                found = statistics.median(turns(results, scenario.name, peer))
                rows.append([f"{scenario.name}, to {peer}", f"≤ {most:.3g}", f"{found:.3g}", met(found, most)])
    looks = results["connect, look", "ours"]
    cpu_ms = statistics.median(one.cpu_s for one in looks) / hosts * 1e3
    rows.append(
        ["connect, look: CPU a host", f"≤ {CPU_MS_PER_HOST:g} ms", f"{cpu_ms:.1f} ms", met(cpu_ms, CPU_MS_PER_HOST)]
    )
    peak = max(one.peak_mb for (_, peer), found in results.items() if peer == "ours" for one in found)
    rows.append([f"peak memory at {hosts} hosts", f"< {PEAK_MB:g} MB", f"{peak:.0f} MB", met(peak, PEAK_MB)])
    return markdown(rows)


def round_trips(rtt_ms: float, repeats: int) -> str:
    """Count the round trips of this toolkit's steps by what a relay adds to them."""
    rows = [["step", "s without", f"s with {rtt_ms:g} ms", "round trips"]]
    peer = Ours(sys.executable)
    with fanout_hosts.hosts(3) as near, fanout_hosts.far_away(near, rtt_ms) as far:
        for step in ("look", "push", "up"):
            prepare(near, peer, "the same" if step == "push" else "nothing")
            seconds(near, peer, step)  # after it, a warm `up` finds its code
            pairs = [(seconds(near, peer, step), seconds(far, peer, step)) for _ in range(repeats)]
            without, with_relay = (statistics.median(found) for found in zip(*pairs, strict=True))
            trips = statistics.median(slow - fast for fast, slow in pairs) / rtt_ms * 1e3
            rows.append([TRIPS[step], f"{without:.2f}", f"{with_relay:.2f}", f"{trips:.1f}"])
    return markdown(rows)


TRIPS = {"look": "connect, look", "push": "connect, look, warm push", "up": "warm `up` until the campaign runs"}


def seconds(lab: Lab, peer: Ours, step: str) -> float:
    """Return how long a step takes, of `up` until the campaign runs (it says so itself)."""
    run = Run(lab, lab.tree, _empty(lab.place / "o"))
    found = timed(peer.command(step, run), run)
    return found.wall_s if step != "up" else float((lab.place / "log").read_text().splitlines()[-1])


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--quick", action="store_true", help="slow peers take one turn")
    parser.add_argument("--peers", type=Path, metavar="VENV", help="where ansible-core and pyinfra are installed")
    parser.add_argument(
        "--rtt-ms", type=float, default=0.0, help="also count round trips, behind a relay of so many ms"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main))
