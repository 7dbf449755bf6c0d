"""A resolver that knows the names it is told, for processes in namespaces of their own (`python -m` this enters none).

RFC 1035, as much of it as glibc asks for: one question in a datagram, A and AAAA.
"""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

ADDRESS = "127.0.0.53"
_IFF_UP, _SIOCSIFFLAGS = 0x1 | 0x40, 0x8914
_NO_SUCH_NAME = 3


class Resolver:
    """`names`: what is known, with its IPv4 address. `mode`: `answer`, `silent` or `garbage`. `delay`: seconds."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.mode = "answer"
        self.delay = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        own.bind((ADDRESS, 53))
        own.settimeout(0.02)
        self._ended.clear()
        self._thread = threading.Thread(target=self._serve, args=(own,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Nobody listens from now on."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _serve(self, own: socket.socket) -> None:
        with own:
            while not self._ended.is_set():
                with contextlib.suppress(TimeoutError):
                    query, asker = own.recvfrom(4096)
                    threading.Thread(target=self._reply, args=(own, query, asker), daemon=True).start()

    def _reply(self, own: socket.socket, query: bytes, asker: object) -> None:
        time.sleep(self.delay)
        if self.mode == "silent":
            return
        reply = os.urandom(len(query)) if self.mode == "garbage" else self._answer(query)
        with contextlib.suppress(OSError):
            own.sendto(reply, asker)  # type: ignore[arg-type]

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode())
            at += 1 + length
        question = query[12 : at + 5]
        (kind,) = struct.unpack(">H", question[-4:-2])
        address = self.names.get(".".join(labels).lower())
        records = b""
        if address is not None and kind == 1:  # a pointer to the name in the question, A, IN, no time to live
            records = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(address)
        code = 0 if address is not None else _NO_SUCH_NAME
        return query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, bool(records), 0, 0) + question + records


def enter(folder: Path) -> None:
    """In namespaces of its own (`unshare --user --map-root-user --mount --net`): give this process and its children a
    loopback interface, and `Resolver` as the only way to find a name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))
    contents = {"resolv.conf": f"nameserver {ADDRESS}\n", "nsswitch.conf": "hosts: dns\n", "hosts": ""}
    for name, content in contents.items():
        place = Path("/etc", name)
        if place.exists():
            (folder / name).write_text(content)
            subprocess.run(["mount", "--bind", folder / name, place.resolve()], check=True)
    # What this process itself has read of them before.
    ctypes.CDLL(None).__res_init()
