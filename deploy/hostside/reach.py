"""Runs on a client's host: connects to the server's port as the client would, and hangs up.

Arguments: the server's name or address, its port, the word that the listener there (`listen.py`) says, seconds to wait.
Prints one JSON line: {"problem": how it failed, "why": in words}, the problem empty if the listener has answered.
Python 3.7 or later.
"""

from __future__ import annotations

import json
import socket
import sys


def reached(host: str, port: int, word: bytes, seconds: float) -> tuple[str, str]:
    """Return what stands in the way, and why; two empty words if the listener answers."""
    try:
        with socket.create_connection((host, port), timeout=seconds) as connection:
            said = b""
            while len(said) < len(word):
                more = connection.recv(len(word))
                if not more:
                    break
                said += more
    except (socket.gaierror, UnicodeError) as error:  # the latter of a name like a..b
        return "name", f"the name {host} cannot be resolved ({getattr(error, 'strerror', None) or error})"
    except socket.timeout:  # noqa: UP041 - another one than TimeoutError before Python 3.10
        return "silent", f"no answer within {seconds:g} s"
    except OSError as error:
        return "refused", error.strerror or str(error)
    return ("", "") if said == word else ("other", "something else answers there")


def main() -> None:
    """Connect, and print."""
    host, port, word, seconds = sys.argv[1:5]
    problem, why = reached(host, int(port), word.encode(), float(seconds))
    print(json.dumps({"problem": problem, "why": why}))


main()
