"""Keys and certificates for a benchmark's processes, as `deploy up` makes them; and a look whether TLS is spoken."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from deploy.authority import Authority
from flcommon.credentials import KEY_FILE, certificate_request
from flcommon.job import Tls

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ADDRESS = "127.0.0.1"


def credentials(keys: Path, campaign: str, server: str, clients: Sequence[str]) -> dict[str, Tls]:
    """Return each process's part in mutual TLS, by name; the server is at `ADDRESS`."""
    authority = Authority(campaign)
    return {
        name: Tls(
            key=str(keys / name / KEY_FILE),
            certificate=authority.sign(name, certificate_request(keys / name), ADDRESS if name == server else None),
            authority=authority.certificate,
            server_name=ADDRESS,
        )
        for name in (server, *clients)
    }


def speaks_tls(address: str) -> bool:
    """Whether a server answers a stranger's TLS handshake; only then is what is measured TLS."""
    host, _, port = address.rpartition(":")
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    stranger.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host, int(port)), 5.0) as plain, stranger.wrap_socket(plain):
            return True
    except OSError:
        return False
