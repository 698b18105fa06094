"""Runs on a host: looks, changes nothing, and prints what it found as one JSON object (`deploy.facts.Facts`).

Arguments: the work directory as the inventory has it. Must run on any Python 3.7 or later, so that one that is too old
can be named instead of failing.
"""

from __future__ import annotations

# The first entry of the path is the current directory, the user's home: files in there are not our modules.
import sys

sys.path = [entry for entry in sys.path if entry]

import getpass  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import shutil  # noqa: E402
import socket  # noqa: E402
import time  # noqa: E402

PACKAGES = ("flwr", "grpc", "msgspec", "numpy", "torch", "torchvision")
DISTRIBUTIONS = {"grpc": "grpcio"}


def existing_parent(path: str) -> str:
    """Return the nearest directory that is there: what a new work directory would be made in."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def version_of(package: str) -> str | None:
    """Return the version of a package, None if it is not installed. Does not import it."""
    if importlib.util.find_spec(package) is None:
        return None
    from importlib import metadata  # noqa: PLC0415 - new in Python 3.8

    try:
        return metadata.version(DISTRIBUTIONS.get(package, package))
    except metadata.PackageNotFoundError:
        return "unknown"


def memory_mb() -> int | None:
    """Return the host's memory in MiB, None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    except (ValueError, OSError):
        return None


def cpu_model() -> str:
    """Return the processor's or the board's name, as far as the system tells."""
    for path, key in (("/proc/device-tree/model", ""), ("/proc/cpuinfo", "model name")):
        try:
            with open(path, errors="replace") as file:
                for line in file:
                    if line.startswith(key):
                        return line.rpartition(":")[2].strip(" \t\n\0")
        except OSError:
            continue
    return platform.processor()


def bundles(path: str) -> list[str]:
    """Return the complete bundles in a directory; what a push that was killed left has a dot in its name."""
    return sorted(name for name in os.listdir(path) if "." not in name) if os.path.isdir(path) else []


def environments(path: str) -> list[str]:
    """Return the complete environments in a directory; half-made ones are hidden, or lack the mark."""
    names = os.listdir(path) if os.path.isdir(path) else []
    return sorted(name for name in names if name[0] != "." and os.path.exists(os.path.join(path, name, ".complete")))


def main() -> None:
    """Look and print."""
    workdir = os.path.abspath(os.path.expanduser(sys.argv[1]))
    parent = existing_parent(workdir)
    modern = sys.version_info >= (3, 8)
    facts = {
        "home": os.path.expanduser("~"),
        "user": getpass.getuser(),
        "hostname": socket.gethostname(),
        "workdir": workdir,
        "python": sys.executable,
        "python_version": platform.python_version(),
        "python_bits": 64 if sys.maxsize > 2**32 else 32,
        "system": platform.system(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "memory_mb": memory_mb(),
        "disk_free_mb": shutil.disk_usage(parent).free // 2**20,
        "writable": os.access(parent, os.W_OK),
        "packages": {package: version_of(package) for package in PACKAGES} if modern else {},
        "code": bundles(os.path.join(workdir, "code")),
        "envs": environments(os.path.join(workdir, "env")),
        "wall_ns": int(time.time() * 1e9),
    }
    print(json.dumps(facts))


main()
