"""What waits for the peer's flow-control windows (RFC 9113, section 5.2)."""

from mixer.server.http2.frames import (
    DATA,
    FLOW_CONTROL_ERROR,
    MAX_FRAME,
    MAX_WINDOW,
    WINDOW,
    ConnectionFault,
    frame,
)


class _Held:
    __slots__ = ("data", "tail", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.data = b""
        self.tail = b""  # the frame that ends the stream


class Outgoing:
    """Puts data into `out` as the windows allow, in the order of the streams that wait for them."""

    def __init__(self, out: list[bytes]) -> None:
        self._out = out
        self._window = WINDOW
        self._initial = WINDOW
        self._most = min(WINDOW, MAX_FRAME)  # bytes of a frame on a stream that has sent nothing yet
        self._held: dict[int, _Held] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._held

    def take(self, number: int, size: int) -> bool:
        """Whether so many bytes may go out at once, as all that a stream sends. They count as sent then."""
        if size > self._most or size > self._window or number in self._held:
            return False
        self._window -= size
        return True

    def send(self, number: int, data: bytes, tail: bytes) -> None:
        held = self._held.get(number)
        if held is None:
            held = self._held[number] = _Held(self._initial)
        held.data += data
        held.tail += tail
        self._pump(number, held)

    def waits(self, number: int) -> bool:
        """Whether data of a stream wait."""
        return number in self._held and bool(self._held[number].data)

    def drop(self, number: int) -> None:
        self._held.pop(number, None)

    def set_initial(self, size: int) -> None:
        change = size - self._initial
        self._initial = size
        self._most = min(size, MAX_FRAME)
        for held in self._held.values():
            held.window += change
        self._pump_all()

    def widen(self, size: int) -> None:
        self._window += size
        if self._window > MAX_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "the window of the connection is too large")
        self._pump_all()

    def widen_stream(self, number: int, size: int) -> bool:
        """Whether that is allowed."""
        held = self._held.get(number)
        if held is None:
            held = self._held[number] = _Held(self._initial)
        held.window += size
        if held.window > MAX_WINDOW:
            return False
        self._pump(number, held)
        return True

    def _pump_all(self) -> None:
        for number, held in list(self._held.items()):
            self._pump(number, held)

    def _pump(self, number: int, held: _Held) -> None:
        data, at = held.data, 0
        while at < len(data) and (room := min(held.window, self._window, MAX_FRAME)) > 0:
            piece = data[at : at + room]
            at += len(piece)
            held.window -= len(piece)
            self._window -= len(piece)
            self._out.append(frame(DATA, 0, number, piece))
        held.data = data[at:] if at else data
        if not held.data and held.tail:
            self._out.append(held.tail)
            del self._held[number]
