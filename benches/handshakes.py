#!/usr/bin/env python3
"""TLS 1.3 handshakes, each with one request, over several connections at a time.

    benches/handshakes.py PORT PATH CONNECTIONS SECONDS [--resume]

Prints JSON: the handshakes and the seconds. With --resume every handshake after the first of each connection resumes the session of
the one before; one that does not, or without --resume one that does, is a failure.
"""

import argparse
import json
import multiprocessing
import socket
import ssl
import time

PATIENCE_S = 20


def handshake(context, port, request, session):
    """Whether a session was resumed, and the one to go on with, whose ticket comes with the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(link, session=session) as tls:
            tls.sendall(request)
            answer = tls.recv(1 << 16)
            while some := tls.recv(1 << 16):
                answer += some
            if not answer.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(f"no 200 came: {answer[:200]!r}")
            return tls.session_reused, tls.session


def work(options):
    """The handshakes of one connection after the other, in a process of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The server's signature is checked all the same; who has signed its certificate is not what is measured.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    request = f"GET {options.path} HTTP/1.1\r\nhost: 127.0.0.1:{options.port}\r\nconnection: close\r\n\r\n".encode()
    count, session, end = 0, None, time.monotonic() + options.seconds
    while time.monotonic() < end:
        wanted = options.resume and count > 0
        resumed, ticket = handshake(context, options.port, request, session if wanted else None)
        if resumed != wanted:
            raise ConnectionError("a session was not resumed" if wanted else "a session was resumed")
        count, session = count + 1, ticket
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    start = time.monotonic()
    with multiprocessing.get_context("fork").Pool(options.connections) as workers:
        counts = workers.map(work, [options] * options.connections, chunksize=1)
    print(json.dumps({"answers": sum(counts), "seconds": time.monotonic() - start}))


if __name__ == "__main__":
    main()
