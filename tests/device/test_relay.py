"""What passes between a board and TVM's client: answers, whole, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from edgeconv.device import session, wire
from edgeconv.device.relay import Answers, RelayError
from edgeconv.errors import DeviceError

RETURN, EXCEPTION, COPY_ACK = 4, 5, 8
REQUESTS = (0, 1, 2, 3, 6, 7, 9, 10, 99, -1)


def packet(code: int, size: int = 20) -> bytes:
    """A packet of TVM's RPC with so many bytes after its code."""
    return struct.pack("<Qi", size + 4, code) + bytes(size)


def test_answers_in_pieces() -> None:
    """Wherever the bytes are cut, the end of the last packet is seen, and no other."""
    data = packet(RETURN) + bytes(8) + packet(EXCEPTION, 0) + packet(COPY_ACK, 3)
    ends = {32, 40, 52, 67}
    for size in (1, 2, 3, 5, 7, 11, 13, 64, 100):
        answers, at = Answers(), 0
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            at += len(piece)
            assert answers.feed(piece) == (at in ends)


@pytest.mark.parametrize("code", REQUESTS)
@pytest.mark.parametrize("size", [1, 4, 9, 12, 50])
def test_requests_do_not_pass(code: int, size: int) -> None:
    """Refused with the piece that holds the code, which the relay has not passed on yet."""
    answers, data = Answers(), packet(RETURN) + packet(code)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    with pytest.raises(RelayError) as caught:
        list(map(answers.feed, pieces))
    assert (caught.value.kind, str(caught.value)) == ("request", f"code {code}")


def test_a_packet_without_a_code() -> None:
    with pytest.raises(RelayError):
        Answers().feed(struct.pack("<Q", 2) + bytes(2))


@contextlib.contextmanager
def hostile(heard: list[bytes]) -> Iterator[int]:
    """A board that sends the client's own first request back to it; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                wire.receive_int(connection)
                wire.receive_text(connection)
                connection.sendall(wire.number(wire.SUCCESS) + wire.text("server:"))
                (size,) = struct.unpack("<Q", wire.receive(connection, 8))
                connection.sendall(struct.pack("<Q", size) + wire.receive(connection, size))
                heard.append(b"")
                with contextlib.suppress(ConnectionError):
                    heard[0] = connection.recv(100)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(20)
        assert not thread.is_alive()


def test_a_board_that_asks() -> None:
    """TVM's client would carry that out, and answer."""
    heard: list[bytes] = []
    with hostile(heard) as port:
        with pytest.raises(
            DeviceError, match=r"asked this machine .* \(code 2\).*nothing was done"
        ):
            session(f"rpc://127.0.0.1:{port}", 20)
    assert heard == [b""]


def test_plain_clients_answer() -> None:
    """Why the relay looks: without it, the board's request is carried out."""
    from tvm import rpc

    heard: list[bytes] = []
    with hostile(heard) as port:
        with pytest.raises(Exception, match="code"):
            rpc.connect("127.0.0.1", port)
    (answer,) = heard
    assert struct.unpack("<i", answer[8:12]) == (RETURN,)
