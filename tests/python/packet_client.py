"""Uploads one file as the reference's own client does: one packet over TLS, then the end of the stream.

Uses only the standard library and PyPI protobuf, and nothing of metacdn. Prints the line that the server answers.
Exit status: 0 if the file was stored, 1 if the server answered an error, 2 if the command line is wrong, 3 if the
connection or the answer broke.
"""

import argparse
import base64
import json
import os
import socket
import ssl
import sys

TIMEOUT_SECONDS = 60
CHUNK_BYTES = 64 * 1024


def json_packet(name, distributed, content):
    return json.dumps({"file_name": name, "distributed": distributed, "content": content}).encode()


def protobuf_packet(name, distributed, content):
    from pack import pack_class

    return pack_class()(content=content, file_name=name, distributed=distributed).SerializeToString()


class Connection:
    """TLS over a socket, its records moved by hand: only so can the stream end without close_notify and still be read."""

    def __init__(self, address, context, server_name):
        self.socket = socket.create_connection(address, timeout=TIMEOUT_SECONDS)
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=server_name)
        self._until_done(self.tls.do_handshake)

    def send(self, data):
        for start in range(0, len(data), CHUNK_BYTES):
            self.tls.write(data[start : start + CHUNK_BYTES])
            self._flush()

    def end_with_close_notify(self):
        """Says by TLS that nothing more comes; the TCP connection stays open in both directions."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            # The server's own close_notify has not come: its answer comes first.
            pass
        self._flush()

    def end_with_fin(self):
        """Says only by TCP that nothing more comes."""
        self._flush()
        self.socket.shutdown(socket.SHUT_WR)

    def read_to_end(self):
        """All that the server sends until its close_notify; a stream that ends without one is cut, and an error."""
        answer = bytearray()
        while True:
            try:
                data = self._until_done(lambda: self.tls.read(CHUNK_BYTES))
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                return bytes(answer)
            answer += data

    def _flush(self):
        if self.outgoing.pending:
            self.socket.sendall(self.outgoing.read())

    def _until_done(self, step):
        while True:
            try:
                result = step()
                self._flush()
                return result
            except ssl.SSLWantReadError:
                self._flush()
                records = self.socket.recv(CHUNK_BYTES)
                if not records:
                    raise ConnectionError("the server ended the connection without close_notify")
                self.incoming.write(records)


def tls_context(arguments):
    context = ssl.create_default_context(cafile=arguments.ca)
    if arguments.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if arguments.tls:
        version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[arguments.tls]
        context.minimum_version = context.maximum_version = version
    return context


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("format", type=str.lower, choices=["json", "protobuf3"])
    parser.add_argument("file")
    parser.add_argument("--name", help="the name to store the file under, instead of its own")
    parser.add_argument("--distributed", choices=["F", "T"], default="F")
    parser.add_argument("--end", choices=["close_notify", "fin"], default="close_notify")
    parser.add_argument("--tls", choices=["1.2", "1.3"], help="use this version of TLS only")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--insecure", action="store_true", help="accept any certificate, as the reference's client does")
    trust.add_argument("--ca", help="a PEM file with the authority that signed the server's certificate")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    with open(arguments.file, "rb") as file:
        content = base64.b64encode(file.read()).decode()
    name = arguments.name or os.path.basename(arguments.file)
    packet = {"json": json_packet, "protobuf3": protobuf_packet}[arguments.format](name, arguments.distributed, content)
    connection = Connection((arguments.host, arguments.port), tls_context(arguments), arguments.host)
    try:
        connection.send(packet)
        {"close_notify": connection.end_with_close_notify, "fin": connection.end_with_fin}[arguments.end]()
    except (BrokenPipeError, ConnectionResetError):
        # A server that has heard enough may close early; what it answered can still be read.
        print("the server closed before it had the whole packet", file=sys.stderr)
    answer = connection.read_to_end().decode()
    print(answer, end="" if answer.endswith("\n") else "\n")
    return 1 if "error" in json.loads(answer) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(3)
