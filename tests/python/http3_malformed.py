"""Sends requests of HTTP/3 that are malformed, by aioquic, and prints what became of each: CASE, EXPECTED, GOT.

Usage: http3_malformed.py PORT AUTHORITY. What is expected may be several, with | between; what was got is a status,
`reset:CODE` of the stream or `closed:CODE` of the connection.
"""

import asyncio
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset

HOST = "site.example"
MESSAGE_ERROR = "reset:0x10e"
FRAME_UNEXPECTED = "closed:0x105"
FRAME_ERROR = "closed:0x106"
EXCESSIVE_LOAD = "closed:0x107"
INCOMPLETE = "reset:0x10d"
DATA, HEADERS = 0, 1

PSEUDO = [(":method", "GET"), (":scheme", "https"), (":authority", HOST), (":path", "/")]
POST = [(":method", "POST")] + PSEUDO[1:]


def frame(kind, payload):
    return encode_uint_var(kind) + encode_uint_var(len(payload)) + payload


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.outcome = asyncio.get_running_loop().create_future()

    def quic_event_received(self, event):
        if isinstance(event, StreamReset):
            self.end(f"reset:{event.error_code:#x}")
        elif isinstance(event, ConnectionTerminated):
            self.end(f"closed:{event.error_code:#x}")
        for heard in self.http.handle_event(event):
            if isinstance(heard, HeadersReceived):
                self.end(dict(heard.headers)[b":status"].decode())

    def end(self, outcome):
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def section(self, fields):
        encode = lambda text: text if isinstance(text, bytes) else text.encode()
        fields = [(encode(name), encode(value)) for name, value in fields]
        return self.http._encoder.encode(0, fields)[1]

    def headers(self, fields):
        return frame(HEADERS, self.section(fields))

    async def send(self, pieces, end=True):
        for number, piece in enumerate(pieces):
            self._quic.send_stream_data(0, piece, end_stream=end and number + 1 == len(pieces))
            self.transmit()
        return await asyncio.wait_for(self.outcome, 20)


def without(name):
    return [field for field in PSEUDO if field[0] != name]


# CASE, EXPECTED, and what makes the bytes.
CASES = [
    ("a good one", "200", lambda c: [c.headers(PSEUDO)]),
    ("a good one with a body", "200", lambda c: [c.headers(POST + [("content-length", "4")]), frame(DATA, b"four")]),
    ("a body in parts, some empty", "200",
     lambda c: [c.headers(POST), frame(DATA, b"a"), frame(DATA, b""), frame(DATA, b"b"), frame(DATA, b"")]),
    ("trailers", "200", lambda c: [c.headers(POST), frame(DATA, b"a"), c.headers([("x-trailer", "1")])]),
    ("unknown frames", "200", lambda c: [frame(0x21, b"x" * 100_000) + c.headers(PSEUDO), frame(0x40, b"y")]),
    ("byte by byte", "200", lambda c: [bytes([byte]) for byte in c.headers(PSEUDO)]),
    ("no method", MESSAGE_ERROR, lambda c: [c.headers(without(":method"))]),
    ("no scheme", MESSAGE_ERROR, lambda c: [c.headers(without(":scheme"))]),
    ("no path", MESSAGE_ERROR, lambda c: [c.headers(without(":path"))]),
    ("no host", MESSAGE_ERROR, lambda c: [c.headers(without(":authority"))]),
    ("an empty path", MESSAGE_ERROR, lambda c: [c.headers(without(":path") + [(":path", "")])]),
    ("a path without a slash", MESSAGE_ERROR, lambda c: [c.headers(without(":path") + [(":path", "x")])]),
    ("two methods", MESSAGE_ERROR, lambda c: [c.headers(PSEUDO + [(":method", "POST")])]),
    ("two paths", MESSAGE_ERROR, lambda c: [c.headers(PSEUDO + [(":path", "/other")])]),
    ("a status", MESSAGE_ERROR, lambda c: [c.headers(PSEUDO + [(":status", "200")])]),
    ("an unknown pseudo-field", MESSAGE_ERROR, lambda c: [c.headers(PSEUDO + [(":x", "y")])]),
    ("a protocol", MESSAGE_ERROR, lambda c: [c.headers([(":method", "CONNECT"), (":protocol", "websocket")] + PSEUDO[1:])]),
    ("a pseudo-field too late", MESSAGE_ERROR, lambda c: [c.headers(without(":path") + [("x", "y"), (":path", "/")])]),
    ("a capital letter", MESSAGE_ERROR, lambda c: [c.headers(PSEUDO + [("X", "y")])]),
    ("a field of a connection", MESSAGE_ERROR, lambda c: [c.headers(PSEUDO + [("connection", "close")])]),
    ("keep-alive", MESSAGE_ERROR, lambda c: [c.headers(PSEUDO + [("keep-alive", "5")])]),
    ("chunks", MESSAGE_ERROR, lambda c: [c.headers(POST + [("transfer-encoding", "chunked")]), frame(DATA, b"0\r\n\r\n")]),
    ("an upgrade", MESSAGE_ERROR, lambda c: [c.headers(PSEUDO + [("upgrade", "websocket")])]),
    ("another coding of trailers", MESSAGE_ERROR, lambda c: [c.headers(PSEUDO + [("te", "gzip")])]),
    ("another host", MESSAGE_ERROR, lambda c: [c.headers(PSEUDO + [("host", "other.example")])]),
    ("a line end", MESSAGE_ERROR, lambda c: [c.headers(PSEUDO + [("x", "y\r\nz: 1")])]),
    ("a space in a name", MESSAGE_ERROR, lambda c: [c.headers(PSEUDO + [("x y", "z")])]),
    ("white space", MESSAGE_ERROR, lambda c: [c.headers(PSEUDO + [("x", " y")])]),
    ("more body than stated", MESSAGE_ERROR, lambda c: [c.headers(POST + [("content-length", "3")]), frame(DATA, b"four")]),
    ("less body than stated", MESSAGE_ERROR, lambda c: [c.headers(POST + [("content-length", "5")]), frame(DATA, b"four")]),
    ("two lengths", MESSAGE_ERROR, lambda c: [c.headers(POST + [("content-length", "4")] * 2), frame(DATA, b"four")]),
    ("other lengths", MESSAGE_ERROR,
     lambda c: [c.headers(POST + [("content-length", "4"), ("content-length", "5")]), frame(DATA, b"four")]),
    ("a length that is no number", MESSAGE_ERROR, lambda c: [c.headers(POST + [("content-length", "+4")]), frame(DATA, b"four")]),
    ("a stated length and none", MESSAGE_ERROR, lambda c: [c.headers(PSEUDO + [("content-length", "5")])]),
    ("a body and none stated", MESSAGE_ERROR, lambda c: [c.headers(POST + [("content-length", "0")]), frame(DATA, b"x")]),
    ("data before a head", FRAME_UNEXPECTED, lambda c: [frame(DATA, b"x") + c.headers(PSEUDO)]),
    ("settings on a stream", FRAME_UNEXPECTED, lambda c: [frame(4, b"")]),
    ("a frame of HTTP/2", FRAME_UNEXPECTED, lambda c: [frame(6, b"12345678")]),
    ("a head that does not end", FRAME_ERROR, lambda c: [c.headers(PSEUDO)[:-3]]),
    ("data that does not end", FRAME_ERROR, lambda c: [c.headers(POST) + encode_uint_var(DATA) + encode_uint_var(9) + b"x"]),
    ("nothing", INCOMPLETE, lambda c: [b""]),
    ("a huge frame", EXCESSIVE_LOAD, lambda c: [encode_uint_var(HEADERS) + encode_uint_var(1 << 40) + b"x"]),
    ("a large head", "431", lambda c: [c.headers(PSEUDO + [(f"x{n}", "y" * 1_000) for n in range(16)])]),
    ("many fields", "431", lambda c: [c.headers(PSEUDO + [("x", "y")] * 101)]),
    ("a broken section", "closed:0x200", lambda c: [frame(HEADERS, b"\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff")]),
    ("a tunnel", "405", lambda c: [c.headers([(":method", "CONNECT"), (":authority", HOST + ":443")])]),
]


async def main(port, authority):
    for case, expected, make in CASES:
        configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=HOST)
        configuration.load_verify_locations(authority)
        async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Client) as client:
            try:
                got = await client.send(make(client))
            except asyncio.TimeoutError:
                got = "nothing"
            print(case, expected, got, sep="\t", flush=True)


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
