"""In which order keys and passwords are offered to a host. Knows no SSH library; nothing is asked while a host waits.

The order: the inventory's key alone; else the keys that ~/.ssh/config names, the agent's, ~/.ssh's own. A key with a
passphrase counts as absent until `Keyring.unlock` has asked for it, which is after all others were refused.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from deploy.remote.asking import Answers, Secret

DEFAULT_KEYS = ("id_rsa", "id_ecdsa", "id_ed25519")


class Key(Protocol):
    """What is used of a paramiko PKey."""

    def asbytes(self) -> bytes: ...  # noqa: D102


K = TypeVar("K", bound=Key)


class Transport(Protocol):
    """What is used of a paramiko Transport; both return the methods that the host wants in addition."""

    def auth_publickey(self, username: str, key: Any) -> list[str]: ...  # noqa: ANN401, D102 - a PKey
    def auth_password(self, username: str, password: str) -> list[str]: ...  # noqa: D102
    def is_active(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Library:
    """What the SSH library does for a login."""

    load: Callable[[Path, Secret | None], Key | None]
    """Load a key file; None if it has a passphrase and none is given."""
    agent: Callable[[], AbstractContextManager[Iterable[Key]]]
    refused: type[Exception]
    """Raised by a host that does not accept a key or password."""
    unusable: type[Exception]
    """Raised by a file that is no key."""


@dataclass(frozen=True)
class Plan:
    """How to log in to one host: these key files, the agent, ~/.ssh's own keys, a password."""

    user: str
    files: tuple[Path, ...]
    agent: bool
    agent_only_for_files: bool = False
    defaults: bool = False
    password: Secret | None = None


@dataclass
class Keyring:
    """The keys that could be used, and those that could if somebody said their passphrase."""

    library: Library
    answers: Answers[Key]
    locked: list[Path] = field(default_factory=list)
    given_up: list[Path] = field(default_factory=list)

    def key(self, file: Path) -> Key | None:
        """Return a file's key; None, and remembered, if it is locked."""
        key = self.answers.opened(file) or self.library.load(file, None)
        if key is None and file not in (*self.locked, *self.given_up):
            self.locked.append(file)
        return key

    def unlock(self) -> bool:
        """Ask for the passphrases of what was found locked until one is known; tell whether a new key is there."""
        while self.locked:
            file = self.locked.pop(0)
            if self.answers.open(file, lambda secret, file=file: self._load(file, secret)) is not None:  # type: ignore[misc]
                return True
            self.given_up.append(file)
        return False

    def _load(self, file: Path, secret: Secret) -> Key:
        key = self.library.load(file, secret)
        assert key is not None  # noqa: S101 - only None as a passphrase leaves a key locked
        return key


@dataclass(frozen=True)
class Login:
    """Offers what the plan says to one host; what paramiko calls an AuthStrategy."""

    plan: Plan
    keyring: Keyring

    def authenticate(self, transport: Transport) -> None:
        """Log in, or raise the library's `refused`."""
        failure: Exception | None = None
        for key in self._keys():
            try:
                wanted = transport.auth_publickey(self.plan.user, key)
            except self.keyring.library.refused as error:
                failure = error
                if not transport.is_active():
                    break
                continue
            if not wanted:
                return
            failure = self.keyring.library.refused(f"the key is accepted, but the host wants {', '.join(wanted)} too")
            break
        if self.plan.password is None:
            raise failure or self.keyring.library.refused("no key to offer")
        transport.auth_password(self.plan.user, self.plan.password.reveal())

    def _keys(self) -> Iterator[Key]:
        """Yield the keys to offer, each once; the next is looked for only when the one before was refused."""
        offered: set[bytes] = set()
        for key in self._candidates():
            if key.asbytes() not in offered:
                offered.add(key.asbytes())
                yield key
        known_locked = [file for file in self.keyring.locked if public_key(file) in offered]
        for file in known_locked:  # the agent's copy was refused: its passphrase is not worth asking for
            self.keyring.locked.remove(file)

    def _candidates(self) -> Iterator[Key]:
        plan = self.plan
        yield from self._loaded(plan.files)
        if plan.agent:
            wanted = {public_key(file) for file in plan.files} if plan.agent_only_for_files else None
            with self.keyring.library.agent() as keys:
                yield from (key for key in keys if wanted is None or key.asbytes() in wanted)
        if plan.defaults:
            yield from self._loaded(Path.home() / ".ssh" / name for name in DEFAULT_KEYS)

    def _loaded(self, files: Iterable[Path]) -> Iterator[Key]:
        for file in files:
            try:
                key = self.keyring.key(file)
            except (OSError, self.keyring.library.unusable):  # as with OpenSSH, a file that is no key is no obstacle
                continue
            if key is not None:
                yield key


def public_key(file: Path) -> bytes | None:
    """Return the public key that stands beside a key file, if it does."""
    try:
        return base64.b64decode(Path(f"{file}.pub").read_text().split()[1])
    except (OSError, IndexError, ValueError, binascii.Error):
        return None
