"""A bulk flow of the kernel's TCP: ``tcp.py listen HOST PORT`` or ``tcp.py send HOST PORT CONGESTION``.

The listener prints how many bytes have come, for each line on its standard input.
"""

from __future__ import annotations

import select
import socket
import sys
import threading

got = 0


def listen(host: str, port: int) -> None:
    server = socket.create_server((host, port))
    threading.Thread(target=count, args=(server,), daemon=True).start()
    print(0, flush=True)  # noqa: T201
    for _ in sys.stdin:
        print(got, flush=True)  # noqa: T201


def count(server: socket.socket) -> None:
    global got
    connection, _ = server.accept()
    while piece := connection.recv(1 << 16):
        got += len(piece)


def send(host: str, port: int, congestion: str) -> None:
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
    sock.connect((host, port))
    while not select.select([sys.stdin], [], [], 0)[0]:
        sock.send(bytes(1 << 14))


if __name__ == "__main__":
    if sys.argv[1] == "listen":
        listen(sys.argv[2], int(sys.argv[3]))
    else:
        send(sys.argv[2], int(sys.argv[3]), sys.argv[4])
