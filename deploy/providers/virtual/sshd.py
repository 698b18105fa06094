"""The hosts of one virtual lab: private SSH servers in one process that ends when its standard input does.

Run by `lab` as `python -m deploy.providers.virtual.sshd`. Reads one JSON line (`{"hosts": […]}`) from standard input,
answers with one JSON line once every host can be reached, and gives up when the pipe closes, by whatever cause: it
kills everything that was started on its hosts and removes their homes.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import asyncssh

from deploy.providers.virtual import state as virtual_state

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deploy.providers.virtual.state import LabState

_ADDRESS = "127.0.0.1"
_PIECE = 64 * 1024


@dataclass(frozen=True)
class Children:
    """The processes of the hosts: starts them, and collects every exit, also of orphans handed to us."""

    _exits: dict[int, asyncio.Future[int]] = field(default_factory=dict)

    def spawn(
        self, command: str, home: Path, env: dict[str, str]
    ) -> tuple[subprocess.Popen[bytes], asyncio.Future[int]]:
        """Start a shell as sshd would; the future gives its exit code (negative: the signal)."""
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=home,
            env=env,
            start_new_session=True,
        )
        exit_code = asyncio.get_running_loop().create_future()
        self._exits[process.pid] = exit_code
        return process, exit_code

    def collect(self) -> None:
        """Reap whatever has ended; the handler of SIGCHLD."""
        for pid, code in virtual_state.reap():
            waiting = self._exits.pop(pid, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(code)


@dataclass(frozen=True)
class VirtualHost:
    """One host: runs the commands of its SSH sessions in its own home and environment."""

    home: Path
    env: dict[str, str]
    children: Children

    async def session(self, ssh: asyncssh.SSHServerProcess[bytes]) -> None:
        """Run one command, wired to the channel's three streams; outlives nothing but what it daemonised."""
        process, exit_code = self.children.spawn(ssh.command or "exit 0", self.home, self.env)
        feeding = asyncio.ensure_future(_feed(ssh, process))
        finishing = asyncio.ensure_future(_finish(ssh, process, exit_code))
        # asyncssh 2.24: after a lost connection, `drain` of a redirected stream never returns.
        closed = asyncio.ensure_future(ssh.channel.wait_closed())
        try:
            await asyncio.wait({finishing, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (feeding, finishing, closed):
                task.cancel()
            _hang_up(process, exit_code)


class _Server(asyncssh.SSHServer):
    """Allows TCP forwarding as OpenSSH does by default, so that a virtual host can be a jump host."""

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:  # noqa: ARG002
        return True


async def _feed(ssh: asyncssh.SSHServerProcess[bytes], process: subprocess.Popen[bytes]) -> None:
    """Copy the channel's input to the command's, with its end.

    By hand: asyncssh's redirection writes from inside `resume_writing`, and asyncio (3.11) drops what is written there
    when the end of the input follows at once: the last packets of every third 5 MB upload were lost.
    """
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), process.stdin
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        while data := await ssh.stdin.read(_PIECE):
            writer.write(data)
            await writer.drain()
    except (asyncssh.Error, OSError):
        pass  # the client went away, or the command reads no more
    finally:
        writer.close()


async def _finish(
    ssh: asyncssh.SSHServerProcess[bytes], process: subprocess.Popen[bytes], exit_code: asyncio.Future[int]
) -> None:
    """Copy both outputs of the command to their end, then tell how it ended."""
    with contextlib.suppress(asyncssh.Error, OSError):  # the client went away and learns nothing more
        # send_eof: asyncssh 2.24 ends the whole channel at the first EOF, be it that of stderr.
        await ssh.redirect(stdout=process.stdout, stderr=process.stderr, send_eof=False)
        await ssh.stdout.drain()
        await ssh.stderr.drain()
        process.returncode = await asyncio.shield(exit_code)  # cancelled, it would look done
        ssh.channel.write_eof()
        if process.returncode < 0:
            ssh.exit_with_signal(signal.Signals(-process.returncode).name.removeprefix("SIG"))
        else:
            ssh.exit(process.returncode)


def _hang_up(process: subprocess.Popen[bytes], exit_code: asyncio.Future[int]) -> None:
    """Tell a session that still runs that its client has gone; what it has detached (setsid, nohup) goes on."""
    if not exit_code.done():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGHUP)  # the shell's group: dash forks even for a single command
    # SIGCHLD's handler reaps; Popen must not warn about a process that it has not seen end. The pipes belong to
    # asyncio's transports, which close them.
    process.returncode = process.returncode if process.returncode is not None else 0


def _environment(state: LabState, host: str, home: Path) -> dict[str, str]:
    locale = os.environ.get("LC_ALL") or os.environ.get("LANG") or "C.UTF-8"
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "USER": getpass.getuser(),
        "LOGNAME": getpass.getuser(),
        "SHELL": "/bin/sh",
        "LANG": locale,
        "LC_ALL": locale,
        # The hosts share this machine's cores: with a thread per core each, they would time one another's
        # contention. A real host has its cores for itself and gets no such limit.
        "OMP_NUM_THREADS": "1",
        virtual_state.MARK: state.mark(host),
    }


async def _listen(host: VirtualHost, host_key: asyncssh.SSHKey, user_key: asyncssh.SSHKey) -> asyncssh.SSHAcceptor:
    return await asyncssh.listen(
        _ADDRESS,
        0,
        server_factory=_Server,
        server_host_keys=[host_key],
        authorized_client_keys=asyncssh.import_authorized_keys(user_key.export_public_key().decode()),
        process_factory=host.session,
        encoding=None,
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        allow_pty=False,
        agent_forwarding=False,
        compression_algs=None,
    )


async def _serve(state: LabState, names: Sequence[str]) -> None:
    """Start every host, say so, and stay until the controller's end of the pipe closes."""
    loop, over, children = asyncio.get_running_loop(), asyncio.Event(), Children()
    loop.add_signal_handler(signal.SIGCHLD, children.collect)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, over.set)
    # Handled, not ignored: a handler is reset by exec, "ignore" would be inherited by every command of the hosts.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    user_key = asyncssh.generate_private_key("ssh-ed25519")
    _write_private(state.identity_file, user_key.export_private_key())
    hosts, known_hosts, acceptors = {}, [], []
    for name in names:
        home, host_key = state.make_home(name), asyncssh.generate_private_key("ssh-ed25519")
        host = VirtualHost(home, _environment(state, name, home), children)
        acceptors.append(await _listen(host, host_key, user_key))
        port = acceptors[-1].get_port()
        hosts[name] = {"port": port, "home": str(home)}
        known_hosts.append(f"[{_ADDRESS}]:{port} {host_key.export_public_key().decode().strip()}\n")
    state.known_hosts.write_text("".join(known_hosts))
    _report(state, hosts)
    await _until_closed(over)
    for acceptor in acceptors:
        acceptor.close()


def _write_private(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(content)


def _report(state: LabState, hosts: dict[str, dict[str, object]]) -> None:
    ready = {"identity_file": str(state.identity_file), "known_hosts": str(state.known_hosts), "hosts": hosts}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()


async def _until_closed(over: asyncio.Event) -> None:
    """Wait for the end of standard input, or for a signal."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    closed, told = loop.create_task(reader.read()), loop.create_task(over.wait())
    await asyncio.wait({closed, told}, return_when=asyncio.FIRST_COMPLETED)


def main() -> None:
    """Be the hosts of one lab until standard input ends."""
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
    names = json.loads(sys.stdin.readline())["hosts"]
    virtual_state.clear_leftovers()
    virtual_state.adopt_orphans()
    state = virtual_state.create()
    try:
        asyncio.run(_serve(state, names))
    finally:
        state.destroy()


if __name__ == "__main__":
    main()
