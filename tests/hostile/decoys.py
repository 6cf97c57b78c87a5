"""What an attack may hit when a defence is off: a network made for the test, and nothing outside this machine.

The whole run takes place in a network namespace of its own without any way out. In it servers listen on loopback as
services of a host do; a second namespace behind a veth pair has the address of cloud metadata services and of a name
server. Whatever arrives is counted by the servers, and every packet by the kernel in the second namespace.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

from referee.sandbox import kernel

HOST, SERVER = "10.77.0.1", "10.77.0.2"
METADATA = "169.254.169.254"
ABSTRACT = "hostile-decoy"
PORTS = {"tcp": 7001, "udp": 7002}
_COUNT = struct.Struct("Q")


class Decoys:
    """Servers in network namespaces of our own. Make one before anything is started; it moves this process."""

    def __init__(self) -> None:
        self._reached = mmap.mmap(-1, 4096)
        kernel.unshare(kernel.NEW_NETWORK)
        _ip("link", "set", "lo", "up")
        _quiet()
        ready, tell = os.pipe()
        self._metadata = self._fork(tell, own_namespace=True)
        os.read(ready, 1)
        _ip("link", "add", "decoy0", "type", "veth", "peer", "name", "decoy1", "netns", str(self._metadata))
        _ip("addr", "add", f"{HOST}/24", "dev", "decoy0")
        _ip("link", "set", "decoy0", "up")
        inside = ("nsenter", "-t", str(self._metadata), "-n", "ip")
        _run(*inside, "addr", "add", f"{SERVER}/24", "dev", "decoy1")
        _run(*inside, "addr", "add", f"{METADATA}/32", "dev", "decoy1")
        _run(*inside, "link", "set", "decoy1", "up")
        _run(*inside, "link", "set", "lo", "up")
        _ip("route", "add", METADATA, "via", SERVER)
        self._local = self._fork(tell, own_namespace=False)
        os.read(ready, 1)
        self._prove()

    def _prove(self) -> None:
        """The decoys can be reached from here: an attack that reaches nothing was stopped, not lost."""
        before, packets = self.reached(), self.packets()
        for address in ((METADATA, 80), (SERVER, 53), ("127.0.0.1", PORTS["tcp"])):
            socket.create_connection(address, timeout=5).close()
        deadline = time.monotonic() + 5
        while self.reached() < before + 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        if self.reached() < before + 3 or self.packets() <= packets:
            raise RuntimeError("the decoys do not count what reaches them")

    def _fork(self, ready: int, *, own_namespace: bool) -> int:
        child = os.fork()
        if child == 0:
            try:
                kernel.die_with_parent()
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                if own_namespace:
                    kernel.unshare(kernel.NEW_NETWORK)
                    _quiet()
                    everywhere = "0.0.0.0"  # noqa: S104 - of a namespace without a way out
                    sockets = [
                        _listen(everywhere, 80, "tcp"),
                        _listen(everywhere, 53, "tcp"),
                        _listen(everywhere, 53, "udp"),
                    ]
                else:
                    unix = socket.socket(socket.AF_UNIX)
                    unix.bind("\0" + ABSTRACT)
                    unix.listen()
                    sockets = [unix]
                    for address in ("127.0.0.1", "::1", HOST):
                        sockets += [_listen(address, port, kind) for kind, port in PORTS.items()]
                os.write(ready, b"x")
                self._serve(sockets, 8 if own_namespace else 0)
            finally:
                os._exit(1)
        return child

    def _serve(self, sockets: list[socket.socket], slot: int) -> None:
        while True:
            for listener in select.select(sockets, [], [])[0]:
                with contextlib.suppress(OSError):
                    connection = None if listener.type == socket.SOCK_DGRAM else listener.accept()[0]
                    # Counted before it is closed, so that whoever saw the end of it is counted.
                    _COUNT.pack_into(self._reached, slot, _COUNT.unpack_from(self._reached, slot)[0] + 1)
                    if connection is None:
                        listener.recv(2048)
                    else:
                        connection.close()

    def reached(self) -> int:
        """Connections and datagrams that arrived at any decoy."""
        return sum(int(_COUNT.unpack_from(self._reached, slot)[0]) for slot in (0, 8))

    def packets(self) -> int:
        """Packets that the kernel counted on their way to the second namespace."""
        for line in Path(f"/proc/{self._metadata}/net/dev").read_text(encoding="ascii").splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == "decoy1":
                return int(numbers.split()[1])
        raise RuntimeError("the decoys' interface is gone")

    def close(self) -> None:
        """End the servers; the kernel takes the namespaces."""
        for child in (self._local, self._metadata):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _quiet() -> None:
    # Without this the kernel's own neighbour discovery would count as packets.
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1", encoding="ascii")


def _listen(address: str, port: int, kind: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    made.bind((address, port))
    if kind == "tcp":
        made.listen()
    return made


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PATH": path})
