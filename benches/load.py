"""What the benchmarks of nodes ask servers with: prebuilt HTTP/1.1 requests over connections that are kept alive, in several
processes, so that the generator is not what is measured. Every answer is checked: its status and, of a GET, every byte."""

import collections
import hashlib
import multiprocessing
import random
import selectors
import socket
import ssl
import time
from dataclasses import dataclass

BLOCK_BYTES = 1 << 20
POOL = random.Random(1).randbytes(2 * BLOCK_BYTES)
STAMP_BYTES = 64
PATIENCE_S = 120


@dataclass(frozen=True)
class Server:
    """Where to connect; `tls` are the files of the authority, of a certificate and of its key, or None for plain HTTP."""

    port: int
    tls: tuple | None = None


@dataclass(frozen=True)
class Content:
    """Bytes that differ from those of every other seed in each block, so that nothing is compressed or stored once for two."""

    seed: int
    size: int

    def block(self, number):
        size = min(BLOCK_BYTES, self.size - number * BLOCK_BYTES)
        stamp = hashlib.blake2b(b"%d/%d" % (self.seed, number)).digest()
        begin = (self.seed * 7919 + number * 104729) % BLOCK_BYTES
        return (stamp + POOL[begin:begin + size - STAMP_BYTES])[:size]

    def blocks(self):
        return map(self.block, range(-(-self.size // BLOCK_BYTES)))


@dataclass(frozen=True)
class Request:
    """A head, with the content that follows it (`sent`) or has to come back (`wanted`)."""

    head: bytes
    sent: Content | None = None
    wanted: Content | None = None


class Failed(Exception):
    pass


class Connection:
    def __init__(self, server):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if server.tls:
            authority, certificate, key = server.tls
            context = ssl.create_default_context(cafile=authority)
            context.load_cert_chain(certificate, key)
            # The name in the certificate is the node's, wherever it is.
            context.check_hostname = False
            self.socket = context.wrap_socket(self.socket)
        self.buffer = bytearray(BLOCK_BYTES)
        self.request, self.since = None, 0.0

    def send(self, request, since):
        self.request, self.since = request, since
        if request.sent is None:
            self.socket.sendall(request.head)
        elif request.sent.size <= BLOCK_BYTES:
            self.socket.sendall(request.head + request.sent.block(0))
        else:
            self.socket.sendall(request.head)
            for block in request.sent.blocks():
                self.socket.sendall(block)
        # A server that holds back the end of an answer until its begin is acknowledged shall not wait 40 ms for that.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def receive(self):
        """Reads the answer to what was sent; raises unless it is the one that was wanted."""
        head, start = self.head()
        status = int(head[9:12])
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if line)
        length = 0 if status == 204 else int(fields.get(b"content-length", b"-1"))
        if status // 100 != 2 or length < 0:
            raise Failed(f"{self.request.head.splitlines()[0].decode()}: {head.decode()} {start[:500]!r}")
        if self.request.wanted is None:
            while len(start) < length:
                start += self.some()
        elif length != self.request.wanted.size or not self.matches(start):
            raise Failed(f"{self.request.head.splitlines()[0].decode()}: not the bytes that were uploaded")

    def head(self):
        text = self.some()
        while (end := text.find(b"\r\n\r\n")) < 0:
            text += self.some()
        return text[:end], text[end + 4:]

    def some(self):
        if not (text := self.socket.recv(1 << 16)):
            raise Failed(f"{self.request.head.splitlines()[0].decode()}: the connection was closed")
        return text

    def matches(self, start):
        """Reads the rest of a body that begins with `start` and compares all of it."""
        view = memoryview(self.buffer)
        for block in self.request.wanted.blocks():
            have = min(len(start), len(block))
            view[:have], start = start[:have], start[have:]
            while have < len(block):
                count = self.socket.recv_into(view[have:len(block)])
                if not count:
                    return False
                have += count
            if (self.buffer if len(block) == BLOCK_BYTES else self.buffer[:len(block)]) != block:
                return False
        return not start


def work(server, requests, connections, rate, pipe):
    """One process: all requests, over so many connections at a time, at most `rate` a second; None is as fast as they go."""
    try:
        idle = collections.deque(Connection(server) for _ in range(min(connections, len(requests))))
        selector = selectors.DefaultSelector()
        for connection in idle:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        pipe.send("ready")
        start = pipe.recv()
        sent, latencies = 0, []
        while len(latencies) < len(requests):
            now = time.monotonic()
            while idle and sent < len(requests) and (not rate or start + sent / rate <= now):
                # What has to wait for a connection waits from when it was due: a server that hangs must not look fast.
                idle[0].send(requests[sent], start + sent / rate if rate else time.monotonic())
                idle.popleft()
                sent += 1
            ahead = start + sent / rate - now if rate and idle and sent < len(requests) else PATIENCE_S
            ready = selector.select(max(0, ahead))
            if not ready and ahead >= PATIENCE_S:
                raise Failed(f"no answer for {PATIENCE_S} s")
            for key, _ in ready:
                key.data.receive()
                now = time.monotonic()
                latencies.append((now, now - key.data.since))
                idle.append(key.data)
        pipe.send((time.monotonic(), latencies))
    except (Failed, OSError, EOFError) as error:
        pipe.send(f"{type(error).__name__}: {error}")


class Load:
    """Requests that are on their way to a server since this was made."""

    def __init__(self, server, requests, connections=32, processes=2, rate=None):
        context = multiprocessing.get_context("fork")
        self.workers = []
        for number in range(processes):
            mine, theirs = context.Pipe()
            part = requests[number::processes]
            arguments = (server, part, max(1, connections // processes), rate / processes if rate else None, theirs)
            # A daemon ends with this program, however that ends.
            worker = context.Process(target=work, args=arguments, daemon=True)
            worker.start()
            theirs.close()
            self.workers.append((worker, mine))
        self.requests = len(requests)
        self.ends, self.latencies = [], []
        for _, pipe in self.workers:
            self.take(pipe, "ready")
        self.start = time.monotonic()
        for _, pipe in self.workers:
            pipe.send(self.start)

    @staticmethod
    def take(pipe, wanted=None):
        try:
            said = pipe.recv()
        except EOFError:
            said = "it ended"
        if isinstance(said, str) and said != wanted:
            raise SystemExit(f"the load failed: {said}")
        return said

    def poll(self, seconds=0):
        """Whether everything was answered, after waiting so long for it."""
        deadline = time.monotonic() + seconds
        while len(self.ends) < len(self.workers):
            worker, pipe = self.workers[len(self.ends)]
            if not pipe.poll(max(0, deadline - time.monotonic())):
                return False
            end, latencies = self.take(pipe)
            self.ends.append(end)
            self.latencies += latencies
            worker.join()
        return True

    def finish(self):
        """The seconds until the last answer."""
        while not self.poll(1):
            pass
        return max(self.ends) - self.start

    def percentile_ms(self, percent, until=None):
        """What so many of a hundred answers took at most; of those that came until a time."""
        ordered = sorted(latency for end, latency in self.latencies if until is None or end <= until)
        return 1e3 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
