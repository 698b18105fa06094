"""Decides whether a host's key is one that OpenSSH's known_hosts files hold; reads each file once, writes none.

paramiko's own loader decodes every key and compares every pair of lines: 17 ms for 300 lines, again for each
connection; and it knows one key per type only, and neither `*`, `!` nor `@revoked`. Format: sshd(8), "SSH_KNOWN_HOSTS
FILE FORMAT". Host certificates (`@cert-authority`) are not supported: paramiko does not ask for them.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import functools
import hashlib
import hmac
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_HASHED = "|1|"
_ENTRY_FIELDS = 3
_PATTERN = re.compile(r"[*?!|]")


@dataclass(frozen=True)
class Entry:
    """One line: its marker (`@revoked`, `@cert-authority` or nothing), host patterns, key type and key in base64."""

    marker: str
    patterns: tuple[str, ...]
    key_type: str
    key: str
    file: Path

    def holds(self, key: bytes) -> bool:
        """Tell whether this line's key is that one."""
        return _decoded(self.key) == key


@dataclass(frozen=True)
class KnownHost:
    """What the known_hosts `files` say of the host that they call `name`; `inventory` is for advice to the user."""

    name: str
    files: tuple[Path, ...]
    inventory: str
    entries: tuple[Entry, ...]

    @property
    def key_types(self) -> tuple[str, ...]:
        """The signature algorithms of the known keys: asking for others would look like a changed key."""
        rsa = ("rsa-sha2-512", "rsa-sha2-256")
        return tuple(
            name for entry in self.trusted for name in (rsa if entry.key_type == "ssh-rsa" else (entry.key_type,))
        )

    @property
    def trusted(self) -> tuple[Entry, ...]:
        """The entries that let the host in."""
        return tuple(entry for entry in self.entries if not entry.marker)

    @property
    def trust_command(self) -> str:
        """The command that shows a lab's host keys and records them."""
        return shlex.join(["deploy", "trust", self.inventory]) if self.inventory else "deploy trust INVENTORY"

    def revocations(self, key: bytes) -> tuple[Entry, ...]:
        """Return the entries that say that a key must not be trusted any more."""
        return tuple(entry for entry in self.entries if entry.marker == "@revoked" and entry.holds(key))

    def forget_commands(self) -> tuple[str, ...]:
        """Return the commands by which the user takes back the trust in the known keys."""
        files = dict.fromkeys(str(entry.file) for entry in self.trusted)
        return tuple(shlex.join(["ssh-keygen", "-R", self.name, "-f", file]) for file in files)

    def refusal(self, key_type: str, key: bytes) -> str | None:
        """Say why the key that the host shows is refused, and what to do about it; None if it is known."""
        shown = f"{key_type} {fingerprint(key)}"
        for entry in self.revocations(key):
            return f"its SSH host key {shown} is marked as revoked in {entry.file}"
        if any(entry.holds(key) for entry in self.trusted):
            return None
        return self._changed(shown) if self.trusted else self._unknown(shown)

    def _unknown(self, shown: str) -> str:
        return (
            f"its SSH host key is not known yet: {self.name} is not in {self.files[0]}, and the host shows {shown}."
            " Compare this fingerprint with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub), and record it"
            f" with: {self.trust_command}"
        )

    def _changed(self, shown: str) -> str:
        known = ", ".join(
            f"{entry.key_type} {fingerprint(_decoded(entry.key))} ({entry.file})" for entry in self.trusted
        )
        return (
            f"WARNING: its SSH host key has CHANGED. For {self.name}, known is {known}, and the host shows {shown}."
            " Either the host was installed anew, or its address now belongs to another machine, or someone sits"
            f" between. If you know that it is the first: {'; '.join(self.forget_commands())}; then:"
            f" {self.trust_command}"
        )


@dataclass(frozen=True)
class ShownKey:
    """A host key as the host itself shows it, and what known_hosts holds about that host."""

    key_type: str
    key: bytes
    known: KnownHost

    @property
    def refusal(self) -> str | None:
        """Why it is refused; None if it is known."""
        return self.known.refusal(self.key_type, self.key)

    @property
    def is_new(self) -> bool:
        """Whether no key of the host is known, nor is this one revoked: then it may be recorded."""
        return not self.known.trusted and not self.known.revocations(self.key)


def known_line(name: str, key_type: str, key: bytes) -> str:
    """Return a key as a line of known_hosts."""
    return f"{name} {key_type} {base64.b64encode(key).decode()}"


def fingerprint(key: bytes) -> str:
    """Return a key's fingerprint as OpenSSH prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def entries_for(path: Path, name: str) -> tuple[Entry, ...]:
    """Return the lines that speak of `name` (`host`, or `[host]:port` for other ports than 22); none if no file."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)  # the clock of a file's time ticks every few ms only
    named, others = _entries(path, version)
    return (*named.get(name.lower(), ()), *(entry for entry in others if _matches(entry.patterns, name)))


def _decoded(key: str) -> bytes:
    try:
        return base64.b64decode(key)
    except binascii.Error:
        return b""


@functools.cache
def _entries(path: Path, _version: tuple[int, ...]) -> tuple[dict[str, list[Entry]], list[Entry]]:
    """Return the entries of plain names by name, and those that have to be matched with every host."""
    named: dict[str, list[Entry]] = {}
    others: list[Entry] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        entry = _parse(line, path)
        if entry is None:
            continue
        if any(_PATTERN.search(pattern) for pattern in entry.patterns):
            others.append(entry)
            continue
        for name in {pattern.lower() for pattern in entry.patterns}:
            named.setdefault(name, []).append(entry)
    return named, others


def _parse(line: str, file: Path) -> Entry | None:
    fields = line.split()
    if not fields or fields[0].startswith("#"):
        return None
    marker = fields.pop(0) if fields[0].startswith("@") else ""
    if len(fields) < _ENTRY_FIELDS:
        return None
    return Entry(marker, tuple(fields[0].split(",")), fields[1], fields[2], file)


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    """Match as OpenSSH does: hashed names, `*` and `?`, and `!` to take a host out again."""
    if any(pattern.startswith("!") and _fits(pattern[1:], name) for pattern in patterns):
        return False
    return any(_fits(pattern, name) for pattern in patterns)


def _fits(pattern: str, name: str) -> bool:
    if pattern.startswith(_HASHED):
        return _hash_fits(pattern, name)
    # Brackets mean a port here, not a set of characters.
    return fnmatch.fnmatchcase(name.lower(), pattern.lower().replace("[", "[[]"))


def _hash_fits(pattern: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in pattern.removeprefix(_HASHED).split("|"))
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.lower().encode(), "sha1"), digest)
