#!/usr/bin/env python3
"""A node with images = "static" takes photographs: how long the uploads take, how long all variants, CPU time and memory.

    cargo build --release && benches/photographs.py PHOTOGRAPH.jpg [--count 500] [--parallel 4]

needs Python 3.11. All files are the one photograph, each with another comment in it, so that no two have the same hash and each is
decoded, resized twice and encoded twice. A second node without images takes the same, to show what the variants cost the uploads.
"""

import argparse
import concurrent.futures
import re
import shlex
import struct
import sys
import threading
import time
from pathlib import Path

from edge_cluster import NODE_HOST, Cluster, Processes, cpu_ns, memory_mib, wait_until


def commented(photograph, number):
    """The photograph with a comment (ITU-T T.81 section B.2.4.5) behind its first marker."""
    comment = str(number).encode()
    return photograph[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(comment)) + comment + photograph[2:]


def metric(cluster, name):
    connection = cluster.connect()
    connection.request("GET", "/metrics", headers={"host": NODE_HOST})
    said = connection.getresponse().read().decode()
    found = re.search(rf"^metacdn_node_{name} (\d+)", said, re.MULTILINE)
    return int(found.group(1)) if found else 0


def load(mode, photograph, options):
    with Processes() as processes:
        cluster = Cluster(processes, None, f'images = "{mode}"')
        local = threading.local()

        def put(number):
            if not hasattr(local, "connection"):
                local.connection = cluster.connect()
            cluster.put(local.connection, f"photographs/{number}.jpg", commented(photograph, number))

        begun, cpu = time.monotonic(), cpu_ns(cluster.node)
        with concurrent.futures.ThreadPoolExecutor(options.parallel) as uploaders:
            list(uploaders.map(put, range(options.count)))
        uploaded = time.monotonic() - begun
        if mode == "static":
            made = lambda: metric(cluster, "variants_made_total") >= 2 * options.count
            wait_until("all variants are made", made, 600)
        all_made = time.monotonic() - begun
        cpu = (cpu_ns(cluster.node) - cpu) / 1e9
        print(f"images = {mode:7} uploaded in {uploaded:6.1f} s, all variants after {all_made:6.1f} s,"
              f" CPU {cpu:6.1f} s ({1e3 * cpu / options.count:.0f} ms each), {memory_mib(cluster.node, 'VmHWM'):.0f} MiB at most",
              flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photograph", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--parallel", type=int, default=4, help="uploads at a time")
    options = parser.parse_args()
    photograph = options.photograph.read_bytes()
    print(f"$ {shlex.join([sys.argv[0], *sys.argv[1:]])}   ({len(photograph)} bytes each)", flush=True)
    for mode in ["off", "static"]:
        load(mode, photograph, options)


if __name__ == "__main__":
    main()
