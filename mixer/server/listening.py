"""What both fronts share: addresses, and the options of their grpc.aio servers."""

import os
import socket

from mixer.errors import StartError

MAX_MESSAGE = 4 * 1024 * 1024  # bytes, grpc's default
OPTIONS = (
    ("grpc.so_reuseport", 0),  # or an address in use would be shared in silence
    ("grpc.max_receive_message_length", MAX_MESSAGE),
)
SHARED_OPTIONS = (("grpc.so_reuseport", 1), *OPTIONS[1:])


def refuse_socket_in_use(address: str) -> None:
    """Raises `StartError` for a Unix socket that somebody listens on: both servers would take it away from them in
    silence. One that a killed process left behind is no one's, and they replace it."""
    if not address.startswith("unix:"):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(address.removeprefix("unix:"))
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except OSError as error:
            raise StartError(f"cannot listen on {address}: {error.strerror or error}") from error
    raise StartError(f"cannot listen on {address}: it is in use")


def bound(address: str, port: int) -> str:
    """The address with the port that was really bound."""
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def cannot_listen(address: str) -> StartError:
    if address.startswith("unix:"):
        return StartError(f"cannot listen on {address}: its folder must exist and be writable")
    return StartError(f"cannot listen on {address}: it is in use, or not an address of this machine")


def own_path(address: str) -> str:
    """Where a Unix socket is bound by this process alone, if others may have its address, too."""
    return f"{address.removeprefix('unix:')}.{os.getpid()}"


def to_bind(address: str, *, shared: bool) -> str:
    """What a server is to bind. Raises `StartError` for a Unix socket in use; see `publish` for shared ones."""
    if not shared:
        refuse_socket_in_use(address)
        return address
    return f"unix:{own_path(address)}" if address.startswith("unix:") else address


def publish(address: str, *, shared: bool) -> None:
    """New connections to a shared Unix socket's address come here from now on, and not to whoever had it before."""
    if shared and address.startswith("unix:"):
        os.replace(own_path(address), address.removeprefix("unix:"))
