"""What is compared in bench/fanout.py: for each peer, the commands that do its steps, and where they leave things.

All do the same remote work with the same look script. Each may use what makes it fast: shared connections, pipelining,
50 hosts at once, an archive instead of 150 files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec
from fanout_ours import START, Plan
from processes import REPOSITORY

from deploy import hostside
from deploy.bundle import make_bundle
from deploy.facts import IDENTITY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fanout_hosts import Lab

BENCH = REPOSITORY / "bench"
PYTHON = shutil.which("python3", path=os.defpath) or sys.executable
"""The hosts' Python: the system's, whose start is not slowed by what a virtual environment holds."""


@dataclass(frozen=True)
class Run:
    """One use of a peer: the lab, what is pushed, and an empty directory for what comes back and for its own files."""

    lab: Lab
    tree: Path
    out: Path


class Peer(Protocol):
    """Something that does the steps look, push, pull and job."""

    name: str
    directory: str
    slow: bool

    def command(self, step: str, run: Run) -> Sequence[str]:
        """Return the command that does a step, after writing the files that it needs."""

    def pushed(self, run: Run) -> str:
        """Return where a pushed tree is, below a host's directory."""


class Ours:
    """This toolkit."""

    name, directory, slow = "ours", "ours", False

    def __init__(self, python: str = PYTHON) -> None:
        self._python = python

    def command(self, step: str, run: Run) -> Sequence[str]:
        """Write the plan."""
        plan = Plan(
            stations=run.lab.stations,
            user=_user(),
            identity_file=str(run.lab.key),
            known_hosts=str(run.lab.known_hosts),
            python=self._python,
            tree=str(run.tree),
            out=str(run.out),
            logs=run.lab.logs,
        )
        (run.out / "plan.json").write_bytes(msgspec.json.encode(plan))
        script = "fanout_up.py" if step == "up" else "fanout_ours.py"
        return [sys.executable, str(BENCH / script), step, str(run.out / "plan.json")]

    def pushed(self, run: Run) -> str:
        """Content-addressed."""
        return f"ours/code/{make_bundle({'tree': run.tree}).digest}/tree"


class OpenSsh:
    """OpenSSH, tuned (see openssh.sh) or as it comes; files by tar or by rsync."""

    slow = False

    def __init__(self, transfer: str, *, tuned: bool = True) -> None:
        self.name = f"OpenSSH + {transfer}" if tuned else f"{transfer} as it comes"
        self.directory = self._transfer = transfer
        self._tuned = tuned

    def command(self, step: str, run: Run) -> Sequence[str]:
        """Write the list of hosts."""
        lines = (f"{station.name} {station.port} {station.directory}\n" for station in run.lab.stations)
        (run.out / "hosts").write_text("".join(lines))
        (run.out / "c").mkdir()
        settings = {
            "HOSTS": run.out / "hosts",
            "KEY": run.lab.key,
            "KNOWN_HOSTS": run.lab.known_hosts,
            "CONTROL": run.out / "c",
            "TUNED": "yes" if self._tuned else "no",
            "TREE": run.tree,
            "OUT": run.out,
            "LOOK": look_script(run),
            "PYTHON": PYTHON,
            "LOGS": " ".join(run.lab.logs),
        }
        words = [f"{name}={value}" for name, value in settings.items()]
        return ["env", *words, str(BENCH / "openssh.sh"), step, self._transfer]

    def pushed(self, run: Run) -> str:  # noqa: ARG002 - the protocol's signature
        """Always the same place."""
        return f"{self._transfer}/tree"


class Ansible:
    """ansible-core, 50 forks, pipelining, shared connections; `unarchive` and `fetch`."""

    name, directory, slow = "ansible-core", "ansible", True

    def __init__(self, peers: Path) -> None:
        self._program = peers / "bin" / "ansible-playbook"

    def command(self, step: str, run: Run) -> Sequence[str]:
        """Write inventory, playbook and configuration (JSON is YAML)."""
        variables = {
            "ansible_host": "127.0.0.1",
            "ansible_user": _user(),
            "ansible_ssh_private_key_file": str(run.lab.key),
            "ansible_python_interpreter": PYTHON,
        }
        each = {
            station.name: {"ansible_port": station.port, "directory": station.directory} for station in run.lab.stations
        }
        play = {"hosts": "all", "gather_facts": False, "strategy": "free", "tasks": self._tasks(step, run)}
        (run.out / "hosts.json").write_bytes(msgspec.json.encode({"all": {"hosts": each, "vars": variables}}))
        (run.out / "play.json").write_bytes(msgspec.json.encode([play]))
        (run.out / "ansible.cfg").write_text(ANSIBLE_CFG.format(known_hosts=run.lab.known_hosts, out=run.out))
        settings = [f"ANSIBLE_CONFIG={run.out}/ansible.cfg", f"ANSIBLE_HOME={run.out}/home", "LC_ALL=C.UTF-8"]
        words = [str(self._program), "-i", f"{run.out}/hosts.json", f"{run.out}/play.json"]
        return ["env", *settings, *words]

    def pushed(self, run: Run) -> str:  # noqa: ARG002 - the protocol's signature
        """Always the same place."""
        return "ansible/tree"

    def _tasks(self, step: str, run: Run) -> list[dict[str, object]]:
        place = "{{ directory }}/ansible"
        look = {"argv": [PYTHON, "-", "", place, ""], "stdin": f"{{{{ lookup('file', '{look_script(run)}') }}}}"}
        fetch = {
            "src": "{{ directory }}/logs/{{ item }}",
            "dest": f"{run.out}/{{{{ inventory_hostname }}}}/",
            "flat": True,
        }
        tasks: dict[str, list[dict[str, object]]] = {
            "look": [{"command": look}],
            "push": [
                {"file": {"path": f"{place}/tree", "state": "directory"}},
                {"unarchive": {"src": str(archive(run)), "dest": f"{place}/tree"}},
            ],
            "start": [{"command": {"argv": ["sh", "-c", START, "start", place]}}],
            "pull": [{"fetch": fetch, "loop": list(run.lab.logs)}],
        }
        parts = {"look": ["look"], "push": ["look", "push"], "pull": ["pull"], "job": ["look", "push", "start", "pull"]}
        return [task for part in parts[step] for task in tasks[part]]


ANSIBLE_CFG = """
[defaults]
forks = 50
host_key_checking = True
stdout_callback = minimal
display_ok_hosts = False
[ssh_connection]
pipelining = True
control_path_dir = {out}/c
ssh_args = -F none -o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile={known_hosts} -o IdentitiesOnly=yes
"""


class Pyinfra:
    """pyinfra, all hosts at once; an archive by `files.put`, logs by `files.get`."""

    name, directory, slow = "pyinfra", "pyinfra", True

    def __init__(self, peers: Path) -> None:
        self._program = peers / "bin" / "pyinfra"

    def command(self, step: str, run: Run) -> Sequence[str]:
        """Write inventory and operations."""
        machines = [
            (
                station.name,
                {
                    "ssh_hostname": "127.0.0.1",
                    "ssh_port": station.port,
                    "ssh_user": _user(),
                    "ssh_key": str(run.lab.key),
                    "ssh_known_hosts_file": str(run.lab.known_hosts),
                    "directory": station.directory,
                },
            )
            for station in run.lab.stations
        ]
        archived = str(archive(run)) if step in ("push", "job") else ""
        known = (step, archived, str(run.out), list(run.lab.logs), PYTHON, START)
        (run.out / "inventory.py").write_text(f"hosts = {machines!r}\n")
        (run.out / "operations.py").write_text(f"STEP, ARCHIVE, OUT, LOGS, PYTHON, START = {known!r}\n{PYINFRA}")
        look_script(run)
        words = [str(self._program), "-y", "--parallel", str(len(machines)), "inventory.py", "operations.py"]
        return ["env", "-C", str(run.out), *words]

    def pushed(self, run: Run) -> str:  # noqa: ARG002 - the protocol's signature
        """Always the same place."""
        return "pyinfra/tree"


PYINFRA = """
import shlex
from pathlib import Path

from pyinfra import host
from pyinfra.operations import files, server

place, name = f"{host.data.directory}/pyinfra", host.name
if STEP in ("look", "push", "job"):
    server.shell(commands=[shlex.join([PYTHON, "-c", Path("look.py").read_text(), "", place, ""])])
if STEP in ("push", "job"):
    files.put(src=ARCHIVE, dest=f"{place}/tree.tar.gz")
    server.shell(commands=[f"mkdir -p {place}/tree && tar -xzf {place}/tree.tar.gz -C {place}/tree"])
if STEP == "job":
    server.shell(commands=[shlex.join(["sh", "-c", START, "start", place])])
if STEP in ("pull", "job"):
    for log in LOGS:
        files.get(src=f"{host.data.directory}/logs/{log}", dest=f"{OUT}/{name}/{log}", create_local_dir=True)
"""


def look_script(run: Run) -> Path:
    """Return the script of this toolkit's look; it takes what is wrong with Python, the work directory, a root."""
    path = run.out / "look.py"
    path.write_text(hostside.program("look", IDENTITY))
    return path


def archive(run: Run) -> Path:
    """Return the tree as an archive, made before the clock runs."""
    file = run.out / "tree.tar.gz"
    if not file.exists():
        subprocess.run(["tar", "-czf", file, "-C", run.tree, "."], check=True)
    return file


def _user() -> str:
    return (
        os.environ.get("USER")
        or subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    )
