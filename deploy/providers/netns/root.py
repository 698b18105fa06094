"""The file system of a host in a namespace: this machine's, as it is, below a layer of the host's own.

Its own are also the homes, /tmp, /run, /dev and what names the host. Everything is mounted in the caller's mount
namespace, which must be the host's; nothing is written on the machine.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.providers.netns import calls, mounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deploy.providers.netns.mounts import Mount
    from deploy.providers.netns.plan import HostPlan, LabPlan

HIDDEN = ("/root", "/home", "/tmp", "/run")  # noqa: S108 - names of what hosts have for themselves
_KERNEL = ("/proc", "/sys", "/dev")
_NO_FILES = ("overlay", "squashfs", "nsfs", "autofs", "fuse", "binfmt_misc")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
_SEARCHED = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_FIRST_USER = 20_001
_SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PrintMotd no
PidFile /run/sshd.pid
Subsystem sftp internal-sftp
# The hosts share this machine's cores: with a thread per core each, they would time one another's contention.
SetEnv LANG=C.UTF-8 OMP_NUM_THREADS=1
"""


@dataclass(frozen=True)
class Disk:
    """What a host keeps when its power fails: the layer of what it wrote, its homes."""

    place: Path

    @property
    def upper(self) -> Path:
        """Files that differ from this machine's, by the mount that they are in."""
        return self.place / "upper"

    @property
    def homes(self) -> Path:
        """What the host sees as /root and /home."""
        return self.place / "homes"

    @property
    def root(self) -> Path:
        """Where the host's file system is put together."""
        return self.place / "root"

    def format(self, host: HostPlan) -> None:
        """Make an empty disk."""
        self.place.mkdir(mode=0o755)
        for directory in (self.upper, self.homes, self.root):
            directory.mkdir()
        if host.extras.home_mb is not None:
            calls.mount("tmpfs", self.homes, f"size={host.extras.home_mb}m,mode=755", calls.NO_SUID | calls.NO_DEVICES)
        (self.homes / "root").mkdir(mode=0o711)  # not 700: Python may lie in there, and other users need it
        (self.homes / "home").mkdir()
        for number, name in enumerate(host.extras.users, start=_FIRST_USER):
            home = self.homes / "home" / name
            home.mkdir(mode=0o700)
            shutil.chown(home, number, number)

    def is_new(self) -> bool:
        """Tell whether the host was never switched on."""
        return not any(self.upper.iterdir())


def enter_root(disk: Disk, plan: LabPlan, host: HostPlan, public_key: str) -> None:
    """Put the host's file system together and make it this process's root; the key opens all of its logins."""
    first = disk.is_new()
    for number, point in enumerate(machine_points(mounts.here())):
        _layer(point, disk.root / point.relative_to("/"), disk.upper / str(number))
    _own_places(disk, plan, host)
    _kernel_places(disk.root)
    if first:
        _name(disk.root, plan, host)
        _write(disk.root / "etc/ssh/authorized_keys", public_key, 0o644)
    calls.change_root(disk.root)


def machine_points(mounts: Iterable[Mount]) -> list[Path]:
    """Return where this machine's files are mounted, the root first; what hosts have for themselves is left out."""
    return list(dict.fromkeys(mount.point for mount in mounts if _holds_files(mount)))


def _holds_files(mount: Mount) -> bool:
    """Leave out what is no place for files: containers' roots, packages mounted as images, what mounts on demand."""
    if mount.point == Path("/"):
        return True
    return not _is_below(mount.point, (*HIDDEN, *_KERNEL)) and not mount.kind.startswith(_NO_FILES)


def _is_below(path: Path, places: tuple[str, ...]) -> bool:
    return any(path.is_relative_to(place) for place in places)


def _layer(lower: Path, target: Path, upper: Path) -> None:
    """Show a mounted file system with a layer above it that takes the changes; read-only where that is refused."""
    if not lower.is_dir():
        if target.exists():
            calls.bind(lower, target, calls.READ_ONLY)
        return
    files, work = upper / "files", upper / "work"
    for directory in (files, work):
        directory.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={_escaped(lower)},upperdir={_escaped(files)},workdir={_escaped(work)},index=off"
    try:
        calls.mount("overlay", target, options)
    except OSError:
        if lower == Path("/"):
            raise
        if target.is_dir():
            calls.bind(lower, target, calls.READ_ONLY)


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def _own_places(disk: Disk, plan: LabPlan, host: HostPlan) -> None:
    """Mount the homes, /tmp and /run, and in them what this machine's Python needs."""
    hidden = [Path(path) for path in plan.request.visible if _is_below(Path(path), HIDDEN)]
    for name, mode in (("tmp", "1777"), ("run", "755")):
        calls.mount("tmpfs", _place(disk.root / name), f"mode={mode}", calls.NO_SUID | calls.NO_DEVICES)
    for name in ("root", "home"):
        for path in hidden:
            if path.is_relative_to(f"/{name}"):
                (disk.homes / path.relative_to("/")).mkdir(parents=True, exist_ok=True)
        flags = calls.READ_ONLY if host.extras.read_only_home else 0
        calls.bind(disk.homes / name, _place(disk.root / name), flags)
    for path in hidden:
        calls.bind(path, _place(disk.root / path.relative_to("/")), calls.READ_ONLY)


def _place(path: Path) -> Path:
    if not path.is_dir():
        path.mkdir(parents=True)
    return path


def _kernel_places(root: Path) -> None:
    """Mount /proc, /sys and a /dev without the machine's disks; what sets the whole kernel is read-only."""
    calls.mount("proc", root / "proc", "", calls.NO_SUID | calls.NO_DEVICES | calls.NO_EXEC)
    for setting in (root / "proc/sysrq-trigger", *(root / "proc/sys").iterdir()):
        if setting.exists() and setting.name != "net":  # the network's settings are the host's own
            calls.bind(setting, setting, calls.READ_ONLY)
    calls.mount("sysfs", root / "sys", "", calls.READ_ONLY | calls.NO_SUID | calls.NO_DEVICES | calls.NO_EXEC)
    dev = root / "dev"
    calls.mount("tmpfs", dev, "mode=755,size=64k", calls.NO_SUID)
    for name in _DEVICES:
        (dev / name).touch()
        calls.bind(Path("/dev") / name, dev / name)
    if Path("/dev/net/tun").exists():
        (dev / "net").mkdir()
        (dev / "net/tun").touch()
        calls.bind(Path("/dev/net/tun"), dev / "net/tun")
    for name, kind, options in (
        ("pts", "devpts", "newinstance,mode=620,ptmxmode=666"),
        ("shm", "tmpfs", "mode=1777"),
    ):
        (dev / name).mkdir()
        calls.mount(kind, dev / name, options, calls.NO_SUID | calls.NO_EXEC)
    for name, target in _LINKS.items():
        (dev / name).symlink_to(target)


def _name(root: Path, plan: LabPlan, host: HostPlan) -> None:
    """Write who the host is, who may log in and how, and take away this machine's host keys and `without`."""
    etc = root / "etc"
    _write(etc / "hostname", f"{host.name}\n", 0o644)
    _write(etc / "hosts", "".join(_hosts(plan)), 0o644)
    _write(etc / "passwd", "".join(_passwd(etc / "passwd", host)), 0o644)
    names = ["root", *host.extras.users]
    _write(etc / "shadow", "".join(f"{name}:*:19000:0:99999:7:::\n" for name in names), 0o600)
    groups = [f"{name}:x:{number}:\n" for number, name in enumerate(host.extras.users, start=_FIRST_USER)]
    _write(etc / "group", (etc / "group").read_text() + "".join(groups), 0o644)
    ssh = _place(etc / "ssh")
    for key in ssh.glob("ssh_host_*"):
        key.unlink()
    _write(ssh / "sshd_config", _SSHD, 0o644)
    for directory in _SEARCHED:
        for name in host.extras.without:
            (root / directory[1:] / name).unlink(missing_ok=True)


def _hosts(plan: LabPlan) -> Iterator[str]:
    yield "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
    for host in plan.request.hosts:
        for address in filter(None, (plan.address(host.number), plan.address6(host.number))):
            yield f"{address} {host.name}\n"


def _passwd(file: Path, host: HostPlan) -> Iterator[str]:
    yield "root:x:0:0:root:/root:/bin/sh\n"
    for line in file.read_text().splitlines():
        if not line.startswith("root:"):
            yield f"{line}\n"
    for number, (name, shell) in enumerate(host.extras.users.items(), start=_FIRST_USER):
        yield f"{name}:x:{number}:{number}::/home/{name}:{shell}\n"


def _write(path: Path, text: str, mode: int) -> None:
    """Replace a file, whatever it was (a link, or a file that was mounted there)."""
    draft = path.with_name(f"{path.name}.fieldlab")
    draft.write_text(text)
    draft.chmod(mode)
    draft.replace(path)
