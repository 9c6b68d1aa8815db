"""Fetches a URL by HTTP/3 with aioquic, and writes the body to standard output.

Usage: http3_aioquic.py URL AUTHORITY [RANGE].
"""

import asyncio
import sys
from urllib.parse import urlsplit

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.status, self.body = None, bytearray()
        self.ended = asyncio.get_running_loop().create_future()

    def quic_event_received(self, event):
        for heard in self.http.handle_event(event):
            if isinstance(heard, HeadersReceived):
                self.status = self.status or int(dict(heard.headers)[b":status"])
            if isinstance(heard, DataReceived):
                self.body += heard.data
            if getattr(heard, "stream_ended", False) and not self.ended.done():
                self.ended.set_result(None)


async def main(url, authority, wanted):
    parts = urlsplit(url)
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=parts.hostname)
    configuration.load_verify_locations(authority)
    async with connect(parts.hostname, parts.port, configuration=configuration, create_protocol=Client) as client:
        stream = client._quic.get_next_available_stream_id()
        fields = {":method": "GET", ":scheme": "https", ":authority": parts.netloc, ":path": parts.path}
        if wanted:
            fields["range"] = wanted
        client.http.send_headers(stream, [(name.encode(), value.encode()) for name, value in fields.items()], end_stream=True)
        client.transmit()
        await asyncio.wait_for(client.ended, 60)
        if client.status not in (200, 206):
            sys.exit(f"status {client.status}")
        sys.stdout.buffer.write(client.body)


asyncio.run(main(*(sys.argv + [""])[1:4]))
