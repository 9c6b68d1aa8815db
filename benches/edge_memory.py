#!/usr/bin/env python3
"""The most memory that an edge takes while many slow readers download different objects at once.

    cargo build --profile production && benches/edge_memory.py [--readers 1000] [--mib 4] [--seconds 20]     (about 1 min, Python 3.11)

Every reader has an object of its own, takes it through a small receive buffer at an even pace, and checks it. All of them have
their first byte before any gets on, so that all downloads are on their way at the same time. Prints the edge's VmHWM; the exit
code is 0 only if that is below the target and all bodies were right. Needs disk for all objects, in --folder.
"""

import argparse
import asyncio
import os
import shlex
import shutil
import socket
import struct
import sys
import time
import zlib

from edge_cluster import Cluster, Processes, memory_mib

TARGET_MIB = 256
READ_BYTES = 64 << 10
RECEIVE_BUFFER_BYTES = 64 << 10


def content(number, noise):
    """An object that is like no other from its first byte on."""
    return struct.pack("<Q", number) + noise[8:]


async def download(port, number, size, crc, seconds, barrier):
    """Whether the object came whole, in about `seconds`."""
    link = socket.socket()
    # Before it connects: the window is agreed on then.
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    link.setblocking(False)
    await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=link, limit=READ_BYTES)
    writer.write(f"GET /object/{number} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    ok = head.startswith("HTTP/1.1 200")
    await barrier.wait()
    start, received, check = time.monotonic(), 0, 0
    while received < size and (chunk := await reader.read(READ_BYTES)):
        check = zlib.crc32(chunk, check)
        received += len(chunk)
        await asyncio.sleep(max(0.0, start + seconds * received / size - time.monotonic()))
    writer.close()
    if not ok:
        print(f"object {number}: {head.splitlines()[0]}", file=sys.stderr)
    return ok and received == size and check == crc


async def read_all(port, crcs, size, seconds):
    barrier = asyncio.Barrier(len(crcs))
    readers = [download(port, number, size, crc, seconds, barrier) for number, crc in enumerate(crcs)]
    return await asyncio.wait_for(asyncio.gather(*readers), 120 + 5 * seconds)


def run(options):
    size = options.mib << 20
    need = options.readers * size * 11 // 10
    if shutil.disk_usage(options.folder).free < need:
        raise SystemExit(f"needs {need >> 20} MiB in {options.folder}: name another with --folder")
    with Processes(options.folder) as processes:
        many = options.readers + 64
        # A node by default answers fewer at a time, so that more readers than that would be refused.
        cluster = Cluster(processes, None, f"[node.serve]\nconnections_max = {2 * many}")
        # A setting of [edge] has to stand before those of its tables.
        edge, port = cluster.edge("edge", None, f"node_requests_max = {many}\n{options.edge}")
        connection, noise, crcs = cluster.connect(), os.urandom(size), []
        for number in range(options.readers):
            body = content(number, noise)
            crcs.append(zlib.crc32(body))
            cluster.put(connection, f"object/{number}", body)
        before = memory_mib(edge, "VmRSS")
        begun = time.monotonic()
        good = asyncio.run(read_all(port, crcs, size, options.seconds))
        took, peak = time.monotonic() - begun, memory_mib(edge, "VmHWM")
        print(f"{options.readers} downloads of {options.mib} MiB at once in {took:.1f} s: {sum(good)} right;"
              f" edge {before:.0f} MiB before, {peak:.0f} MiB at most (target: below {TARGET_MIB})")
        return all(good) and peak < TARGET_MIB


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--mib", type=int, default=4, help="size of each object")
    parser.add_argument("--seconds", type=float, default=20, help="how long each download takes")
    parser.add_argument("--folder", default="/tmp", help="where the objects are kept meanwhile")
    parser.add_argument("--edge", default="", help="more lines of the edge's configuration")
    options = parser.parse_args()
    print(f"$ {shlex.join([sys.argv[0], *sys.argv[1:]])}", flush=True)
    sys.exit(0 if run(options) else 1)


if __name__ == "__main__":
    main()
