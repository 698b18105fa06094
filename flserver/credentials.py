"""The server's end of mutual TLS: its credentials for gRPC, and which client a connection has proved to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from flcommon.credentials import private_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flcommon.job import Tls

_SCHEME = "fieldlab://"
_NAMES = "x509_subject_alternative_name"


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Return credentials that let in whom this campaign's authority calls a client; raises StepError for a bad key."""
    pair = (private_key(tls), tls.certificate.encode())
    return grpc.ssl_server_credentials([pair], tls.authority.encode(), require_client_auth=True)


def peer_name(context: grpc.ServicerContext) -> str | None:
    """Return which client the peer's certificate names (`deploy.authority` wrote it), None on a connection without TLS.

    A certificate that names no client gives "", which is nobody's name.
    """
    proved: Mapping[str, Sequence[bytes]] = context.auth_context()  # type: ignore[assignment]  # stubs: one value each
    if b"ssl" not in proved.get("transport_security_type", ()):
        return None
    uris = [name.decode(errors="replace") for name in proved.get(_NAMES, ())]
    paths = [uri.removeprefix(_SCHEME).partition("/")[2] for uri in uris if uri.startswith(_SCHEME)]
    return paths[0] if len(paths) == 1 else ""
