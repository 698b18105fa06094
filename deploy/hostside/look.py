"""Runs on a host: looks, changes nothing, and prints what it found as one JSON object (`deploy.facts.Facts`).

Started by `look.sh`. Arguments: what is wrong with the inventory's own Python (empty: nothing, it is this one), the
work directory, a directory to stand before /proc and /sys (empty on a host; tests have trees of their own), and the
names of distributions that an app needs beyond those looked for anyway.
Runs on Python 3.7 or later, so that one that is too old can be named. It imports only what the interpreter has loaded
anyway: `platform`, `shutil` and `json` cost four times as much CPU as all the rest.
"""

from __future__ import annotations

import os
import sys
import time

from flcommon.identity import lives

DISTRIBUTIONS = {
    "flwr": "flwr",
    "grpcio": "grpc",
    "msgspec": "msgspec",
    "numpy": "numpy",
    "torch": "torch",
    "torchvision": "torchvision",
}
"""What is looked for: names of distributions, and the packages that they install. An app's own keep their names."""


def text(path: str) -> str:
    """Return what a file holds; nothing if it is not there, or not for us."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def entries(path: str) -> list[str]:
    """Return the names in a directory in order; none if it is not there, or not for us."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def existing_parent(path: str) -> str:
    """Return the nearest directory that is there: what a new work directory would be made in."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def versions(more: list[str]) -> dict[str, str | None]:
    """Return the versions of the packages that can be imported, None for the others, from names of files alone."""
    wanted = dict({name: name for name in more}, **DISTRIBUTIONS)
    found: dict[str, str | None] = dict.fromkeys(wanted.values())
    for place in sys.path:
        for name in entries(place):
            stem, ending = os.path.splitext(name)
            if ending not in (".dist-info", ".egg-info"):  # Debian's own packages still have the latter
                continue
            distribution, _, version = stem.partition("-")
            package = wanted.get(distribution.lower().replace("_", "-").replace(".", "-"))
            if package is not None and found[package] is None:  # the first on the path is what an import gets
                found[package] = version.partition("-py")[0]
    return found


def memory_mb(root: str) -> int | None:
    """Return the host's memory in MiB, None where the system does not tell."""
    for line in text(root + "/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    except (ValueError, OSError):
        return None


def cpu_model(root: str) -> str:
    """Return the board's or the processor's name, as far as the system tells."""
    model = text(root + "/proc/device-tree/model").strip(" \t\n\0")
    if model:
        return model
    for line in text(root + "/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.rpartition(":")[2].strip()
    return ""


def system_version() -> str:
    """Return kernel and C library: wheels are made for the latter."""
    system = os.uname()
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        library = ""
    return "-".join(filter(None, (system.sysname, system.release, system.machine, library.replace(" ", ""))))


def user() -> str:
    """Return the name of the user who is logged in here, or the number of one without a name."""
    import pwd  # noqa: PLC0415 - Unix

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def bundles(path: str) -> list[str]:
    """Return the complete bundles in a directory; what a push that was killed left has a dot in its name."""
    return [name for name in entries(path) if "." not in name and os.path.isdir(os.path.join(path, name))]


def environments(path: str) -> list[str]:
    """Return the complete Python environments in a directory."""
    return [name for name in entries(path) if os.path.exists(os.path.join(path, name, ".complete"))]


def running(below: str) -> list[str]:
    """Return the directories (campaign/host) whose process is alive, as `flcommon.process` judges it."""
    found = []
    for campaign in entries(below):
        for host in entries(os.path.join(below, campaign)):
            directory = os.path.join(below, campaign, host)
            # The exit file is written once the process has ended.
            who = "" if os.path.exists(directory + "/exit.json") else text(directory + "/process.json")
            if who and is_alive(who):
                found.append(directory)
    return found


def is_alive(who: str) -> bool:
    """Tell whether the process lives whose identity this is, in JSON."""
    import json  # noqa: PLC0415 - 8 ms, where something may run

    try:
        identity = json.loads(who)
        return lives(int(identity["pid"]), identity["started"])
    except (ValueError, TypeError, LookupError):
        return False


def request(keys: str) -> str:
    """Return the certificate request beside a private key that nobody else can read; nothing if one is not so."""
    try:
        modes = [os.lstat(path).st_mode for path in (keys, keys + "/host.key")]
    except OSError:
        return ""
    return text(keys + "/host.csr") if modes == [0o40700, 0o100600] else ""  # stat(2): a directory, a regular file


def interfaces(root: str) -> list[str]:
    """Return the names of all interfaces, as far as the system tells."""
    return [name for name in entries(root + "/sys/class/net") if name != "bonding_masters"]


def stack(root: str) -> str:
    """Return what two logins have in common that share their interfaces: the kernel's boot, the network namespace."""
    boot = text(root + "/proc/sys/kernel/random/boot_id").strip()
    try:
        return f"{boot} {os.readlink('/proc/self/ns/net')}" if boot else ""
    except OSError:
        return ""


def facts(trouble: str, workdir: str, root: str, more: list[str]) -> dict[str, object]:
    """Look."""
    workdir = os.path.abspath(os.path.expanduser(workdir))
    parent = existing_parent(workdir)
    disk = os.statvfs(parent)
    system = os.uname()
    return {
        "home": os.path.expanduser("~"),
        "user": user(),
        "hostname": system.nodename,
        "workdir": workdir,
        "python": sys.executable,
        "python_version": sys.version.split()[0],
        "python_bits": 64 if sys.maxsize > 2**32 else 32,
        "trouble": trouble,
        "system": system.sysname,
        "platform": system_version(),
        "machine": system.machine,
        "cpu": cpu_model(root),
        "cpus": os.cpu_count(),
        "memory_mb": memory_mb(root),
        "disk_free_mb": disk.f_bavail * disk.f_frsize // 2**20,
        "writable": os.access(parent, os.W_OK),
        "read_only": bool(disk.f_flag & 1),  # statvfs(3): ST_RDONLY
        "packages": versions(more),
        "code": bundles(os.path.join(workdir, "code")),
        "envs": environments(os.path.join(workdir, "env")),
        "running": running(os.path.join(workdir, "campaigns")),
        "csr": request(os.path.join(workdir, "keys")),
        "interfaces": interfaces(root),
        "stack": stack(root),
        "wall_ns": time.time_ns(),
    }


def encoded(value: object) -> str:
    """Return a value as JSON. `json` itself would take as long to import as all the rest takes to run."""
    if isinstance(value, str):
        clean = value.encode("utf-8", "replace").decode()  # names of files may be no text
        return '"' + "".join(map(escaped, clean)) + '"'
    if isinstance(value, dict):
        return "{" + ",".join(f"{encoded(key)}:{encoded(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(encoded, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def escaped(character: str) -> str:
    """Return a character as it stands between the quotes of JSON, in ASCII whatever the locale."""
    if character in '"\\':
        return "\\" + character
    if " " <= character <= "~":
        return character
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


if __name__ == "__main__":
    print(encoded(facts(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])))
