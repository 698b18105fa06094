"""Runs on the server's host: takes connections on the server's port for a few seconds, to see who can reach it.

Arguments: where to listen (`address:port` or `[address]:port`), a word that every caller is told, seconds to live.
Prints one JSON line: {"port": …} once it listens, else {"busy": who} or {"refused": why}. Ends by itself when the
seconds are over, or when nobody reads its output any more. Python 3.7 or later.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import sys
import time

LISTEN = "0A"
"""The state in /proc/net/tcp."""
ENDED = select.POLLERR | select.POLLHUP | select.POLLNVAL


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; `::` is IPv4 too, and is all of IPv4 on a host without IPv6."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
    except OSError as error:
        if host == "::" and error.errno != errno.EADDRINUSE:
            return bound("0.0.0.0", port)  # noqa: S104 - what the server does too
        raise
    listener.listen(200)
    return listener


def holder(port: int) -> str:
    """Return who listens on a port, as far as this user may see."""
    nodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in lines(table)[1:]:
            words = line.split()
            if words[3] == LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                nodes.add(f"socket:[{words[9]}]")
    for pid in filter(str.isdigit, os.listdir("/proc") if nodes else []):
        if nodes & links(f"/proc/{pid}/fd"):
            return f"{''.join(lines(f'/proc/{pid}/comm')).strip()} (pid {pid})"
    return "another program"


def lines(path: str) -> list[str]:
    """Return the lines of a file of /proc; none if it is gone or there is none."""
    try:
        with open(path, errors="replace") as file:
            return file.readlines()
    except OSError:
        return []


def links(directory: str) -> set[str]:
    """Return where the links of a directory lead; those of another user's process are not told."""
    try:
        return {os.readlink(os.path.join(directory, name)) for name in os.listdir(directory)}
    except OSError:
        return set()


def serve(listener: socket.socket, word: bytes, seconds: float) -> None:
    """Tell everybody who comes the word, until the time is over or our own reader is gone."""
    deadline = time.monotonic() + seconds
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    waiting.register(1, 0)
    while time.monotonic() < deadline:
        for descriptor, event in waiting.poll(1000 * max(0.0, deadline - time.monotonic())):
            if descriptor == 1 and event & ENDED:
                return
            if descriptor == listener.fileno():
                with contextlib.suppress(OSError), listener.accept()[0] as caller:  # who hangs up again is no loss
                    caller.sendall(word)


def main() -> None:
    """Listen."""
    place, word, seconds = sys.argv[1:4]
    host, _, port = place.rpartition(":")
    try:
        listener = bound(host.strip("[]"), int(port))
    except OSError as error:
        busy = error.errno == errno.EADDRINUSE
        print(json.dumps({"busy": holder(int(port))} if busy else {"refused": error.strerror or str(error)}))
        return
    with listener:
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        serve(listener, word.encode(), float(seconds))


main()
