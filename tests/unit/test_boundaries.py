"""Who may import what: the contracts of pyproject.toml hold, and SSH is in one module."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("deploy", "flcommon", "flserver", "flclient")
SSH = {"fabric", "paramiko", "invoke"}


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere in it, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_the_contracts_are_kept():
    """Every boundary that pyproject.toml draws holds, and there are some."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
    assert "0 kept" not in done.stdout


def test_one_corner_speaks_ssh():
    """Everything else talks to a host through the five verbs; logging in, the way there and the transport know SSH."""
    modules = {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
        if imported(path) & SSH
    }
    assert modules == {f"deploy/remote/{name}.py" for name in ("ssh", "route", "transport")}


def test_two_corners_know_certificates():
    """A host makes its key and a request for a certificate, the controller signs: nobody else has to do with it."""
    modules = {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
        if "cryptography" in imported(path)
    }
    assert modules == {"flcommon/credentials.py", "deploy/authority.py"}


def test_help_loads_nothing_that_is_slow():
    """`deploy --help`, and that of every verb, comes at once: no SSH, no tables, no charts, no learning."""
    code = """
import sys
from typer.testing import CliRunner
from deploy.cli import app
for words in ([], ["up"], ["check"], ["down"], ["report"]):
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0
print(*sorted({"polars", "altair", "vl_convert", "fabric", "paramiko", "asyncssh", "torch", "flwr", "grpc", "numpy",
               "cryptography"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
