"""cri_pull.py SOCKET IMAGE: the one call that `crictl pull` and a kubelet make.

gRPC's least: one HTTP/2 stream, headers spelt out in full. A reply with an image's name is
success; of a failure containerd's own log tells more.
"""

from __future__ import annotations

import socket
import struct
import sys

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY = 0, 1, 3, 4, 6, 7
_ACK, _END_STREAM, _END_HEADERS = 0x1, 0x1, 0x4
_CALL = "/runtime.v1.ImageService/PullImage"


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def _text(field: int, value: bytes) -> bytes:
    """A length-delimited protobuf field (its length below 128)."""
    return bytes([field << 3 | 2, len(value)]) + value


def _headers() -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": _CALL,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    # RFC 7541, 6.2.2: literals without indexing, names and values as they are.
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields.items()
    )


def _read(connection: socket.socket, length: int) -> bytes:
    got = b""
    while len(got) < length:
        part = connection.recv(length - len(got))
        if not part:
            raise EOFError("containerd closed the connection")
        got += part
    return got


def pull(path: str, image: str) -> bytes:
    """The message of the reply; empty when the call failed."""
    request = _text(1, _text(1, image.encode()))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, 1, _headers())
            + _frame(_DATA, _END_STREAM, 1, b"\0" + struct.pack(">I", len(request)) + request)
        )
        reply = b""
        while True:
            head = _read(connection, 9)
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            body = _read(connection, int.from_bytes(head[:3], "big"))
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                connection.sendall(_frame(kind, _ACK, 0, body if kind == _PING else b""))
            elif kind == _DATA:
                reply += body
            elif kind in (_RESET, _GO_AWAY):
                return b""
            if kind in (_DATA, _HEADERS) and stream == 1 and flags & _END_STREAM:
                return reply[5:]


if __name__ == "__main__":
    if not pull(sys.argv[1], sys.argv[2]):
        sys.exit(f"PullImage of {sys.argv[2]} failed; see containerd's log")
