"""A host's private key and the request for a certificate that goes with it, both kept in `<workdir>/keys`.

The key is made on its host, only its owner can read it, and it never leaves; the request is public. This is the one
module of ours on a host that imports `cryptography`. It knows nothing of gRPC, and trusts or signs nothing.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from flcommon.errors import StepError
from flcommon.process import alone

if TYPE_CHECKING:
    from flcommon.job import Tls

STEP = "tls"
KEY_FILE = "host.key"
REQUEST_FILE = "host.csr"
_MINE, _MY_DIRECTORY = 0o600, 0o700
_UNUSABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""What `cryptography` raises for a file that is not what it should be."""


def certificate_request(keys: Path) -> str:
    """Return this host's certificate request as PEM, after making the key and the request if they are missing.

    A key that is there stays, whatever it is, but nobody else may read it from now on. Two that ask at once get the
    same. Raises SystemExit for a key that cannot be used, OSError that names the file.
    """
    keys.mkdir(_MY_DIRECTORY, parents=True, exist_ok=True)
    _restrict(keys, _MY_DIRECTORY)
    with alone(keys):
        key = keys / KEY_FILE
        if not os.path.lexists(key):
            _write(key, _new_key())
        _restrict(key, _MINE)
        private = _loaded(key)
        request = keys / REQUEST_FILE
        if not _fits(request, private):
            _write(request, _new_request(private))
        return request.read_text("ascii")


def private_key(tls: Tls) -> bytes:
    """Return the private key of this process as PEM; raises StepError if it is not the one of its certificate."""
    certificate = x509.load_pem_x509_certificate(tls.certificate.encode())
    again = "start the campaign again (deploy up)"
    try:
        content = _read(Path(tls.key))
        private = load_pem_private_key(content, None)
    except OSError as error:
        raise StepError(STEP, f"the private key {tls.key} cannot be read ({error.strerror}): {again}") from error
    except _UNUSABLE as error:
        raise StepError(STEP, f"{tls.key} is not a private key: delete it and {again}") from error
    if private.public_key() != certificate.public_key():
        why = f"the private key {tls.key} is another than this campaign's certificate was made for"
        raise StepError(STEP, f"{why}: {again}")
    return content


def out_of_date(certificate: str) -> str | None:
    """Say that a certificate (PEM) is not valid at this host's time; None if it is."""
    read, now = x509.load_pem_x509_certificate(certificate.encode()), datetime.now(UTC)
    if now > read.not_valid_after_utc:
        return f"was valid until {read.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if now < read.not_valid_before_utc:
        return f"is valid from {read.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on"
    return None


def _new_key() -> bytes:
    """Return a new private key: P-256, since gRPC's BoringSSL refuses Ed25519 (docs/decisions/0010)."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _new_request(private: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a request without a name: which host this is, the inventory says, and the authority writes."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM)


def _fits(request: Path, private: ec.EllipticCurvePrivateKey) -> bool:
    """Whether a file is a sound request for this key; a crash may have kept it from being written."""
    with suppress(FileNotFoundError, *_UNUSABLE):
        read = x509.load_pem_x509_csr(_read(request))
        return read.is_signature_valid and read.public_key() == private.public_key()
    return False


def _loaded(key: Path) -> ec.EllipticCurvePrivateKey:
    with suppress(*_UNUSABLE):
        private = load_pem_private_key(_read(key), None)
        if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1):
            return private
    raise SystemExit(f"{key} is not a private key for P-256: delete it, and another is made")


def _read(path: Path) -> bytes:
    """Return a file's content, never through a symbolic link: what is ours is a file."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return file.read()


def _restrict(path: Path, mode: int) -> None:
    """Give a file or directory of ours exactly these permissions; never follows a symbolic link to somebody else's."""
    flags = os.O_RDONLY | os.O_NOFOLLOW
    with suppress(PermissionError):  # a mode that keeps even its owner from opening it
        descriptor = os.open(path, flags)
        try:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
                os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
        return
    path.chmod(mode)


def _write(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, so that after a crash all of it is there, or nothing."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MINE), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
