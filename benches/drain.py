#!/usr/bin/env python3
"""Downloads over plain HTTP and throws the bodies away inside the kernel (recv with MSG_TRUNC, tcp(7)), so that what limits large answers
is the server and not a generator that copies every byte.

    benches/drain.py PORT PATH CONNECTIONS SECONDS [--unique]

Prints JSON: the answers (those that the end cut off as the part of them that had come), the seconds and the bytes. Each connection has one
request on its way. With --unique each request has a query of its own, a number behind PATH.
"""

import argparse
import itertools
import json
import re
import select
import socket
import time

HEAD_BYTES = 4096
DRAIN_BYTES = 4 << 20
PATIENCE_S = 20


class Connection:
    def __init__(self, port, paths):
        self.host = f"127.0.0.1:{port}"
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.paths, self.head, self.length, self.left, self.answers = paths, b"", 0, 0, 0

    def ask(self):
        self.socket.sendall(f"GET {next(self.paths)} HTTP/1.1\r\nhost: {self.host}\r\n\r\n".encode())

    def read_head(self):
        got = self.socket.recv(HEAD_BYTES)
        self.head += got
        end = self.head.find(b"\r\n\r\n")
        if not got or (end < 0 and len(self.head) >= HEAD_BYTES):
            raise SystemExit(f"no head came: {self.head!r}")
        if end < 0:
            return
        length = re.search(rb"\r\ncontent-length: *(\d+)", self.head, re.IGNORECASE)
        if not self.head.startswith(b"HTTP/1.1 200") or not length or not int(length.group(1)):
            raise SystemExit(f"no 200 with a length came: {self.head[:500]!r}")
        self.length = int(length.group(1))
        self.took(len(self.head) - end - 4, self.length)
        self.head = b""

    def took(self, count, of):
        self.left = of - count
        if self.left < 0:
            raise SystemExit("more came than was said")
        if not self.left:
            self.answers += 1
            self.ask()

    def ready(self, buffer):
        if not self.left:
            return self.read_head()
        count = self.socket.recv_into(buffer, min(self.left, DRAIN_BYTES), socket.MSG_TRUNC)
        if not count:
            raise SystemExit("the connection was closed within an answer")
        self.took(count, self.left)

    def answered(self):
        return self.answers + ((self.length - self.left) / self.length if self.left else 0)


def drain(port, paths, connections, seconds):
    poll, buffer, by_number = select.epoll(), memoryview(bytearray(DRAIN_BYTES)), {}
    for _ in range(connections):
        connection = Connection(port, paths)
        by_number[connection.socket.fileno()] = connection
        poll.register(connection.socket, select.EPOLLIN)
    start = now = time.monotonic()
    for connection in by_number.values():
        connection.ask()
    while now < start + seconds:
        ready = poll.poll(PATIENCE_S)
        if not ready:
            raise SystemExit(f"nothing came for {PATIENCE_S} s")
        for number, _ in ready:
            by_number[number].ready(buffer)
        now = time.monotonic()
    answers = sum(connection.answered() for connection in by_number.values())
    length = max(connection.length for connection in by_number.values())
    return {"answers": answers, "seconds": now - start, "bytes": int(answers * length)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--unique", action="store_true")
    options = parser.parse_args()
    paths = (f"{options.path}{number}" for number in itertools.count()) if options.unique else itertools.repeat(options.path)
    print(json.dumps(drain(options.port, paths, options.connections, options.seconds)))


if __name__ == "__main__":
    main()
