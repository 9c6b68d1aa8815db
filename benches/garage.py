#!/usr/bin/env python3
"""Three nodes of metacdn beside three of Garage: uploads and reads of small and of large objects.

    cargo install garage --locked --root /tmp/garage
    cargo build --release && benches/garage.py --garage /tmp/garage/bin/garage

needs Python 3.11 and Garage 2. Everything runs on loopback of this machine. Each run has a cluster of its own, on empty
folders; runs are interleaved (A B C, C B A, ...), figures are medians. Small objects go over 32 connections, large ones over
4, all to one node; every byte that is read is compared. Nothing can be compressed or stored once for two.

two, three  an upload of all until two copies of each are acknowledged, and until all three nodes hold all of them. Garage
            answers when two nodes of three have it. Where metacdn cannot wait for two (?wait_for=2), it answers when one has
            it, and "two" is when the first of the others has all; then the line says so.
CPU         seconds of all three processes, from the first request until then; the kernel's own threads are in none
later       CPU seconds after that until the processes rest, such as for Garage's Merkle trees
/CPU s      objects or MB for each of those CPU seconds: the figure to compare
peak        the most memory that was resident, of the largest process; "own" without mapped files, which Garage's database is

metacdn      TLS 1.3 with client certificates for uploads and reads, and between nodes; every file and commit is synced
garage       data_fsync and metadata_fsync, so that it promises the same, and no compression; plain HTTP to the client,
             unsigned payloads, its own encryption between nodes
garage-fast  as garage, but nothing is synced, as it comes: what a node has acknowledged may be lost when power fails
"""

import argparse
import hashlib
import hmac
import http.client
import json
import os
import secrets
import shlex
import shutil
import statistics
import sys
import time
from pathlib import Path

from edge_cluster import Processes, free_port, wait_until
from load import BLOCK_BYTES, Content, Load, Request, Server
from node_cluster import Meter, Nodes

NAMES = ["A", "B", "C"]
REGION = "garage"
BUCKET = "bench"


class Metacdn:
    name = "metacdn"

    def __init__(self, processes, options):
        self.nodes = Nodes(processes, NAMES)
        self.pids = self.nodes.pids
        self.server = self.nodes.server(NAMES[0])
        self.copies = 2 if self.nodes.waits_for_copies() else 1
        self.query = "?wait_for=2" if self.copies == 2 else ""
        self.seen = {}

    def put(self, key, content):
        return self.nodes.put(key, content, self.query)

    def get(self, key, content):
        return self.nodes.get(key, content)

    def begin(self):
        self.seen = self.nodes.marks()

    def holders(self, count, _size):
        return sum(self.nodes.holds(name, mark, count) for name, mark in self.seen.items())

    def check(self, prefix, count):
        self.nodes.check(prefix, count)


class Garage:
    copies = 2

    def __init__(self, processes, options, name="garage", synced=True):
        self.name, self.folder = name, processes.folder
        self.pids, self.admin, self.s3, rpc = {}, {}, {}, {}
        self.token, secret = secrets.token_hex(32), secrets.token_hex(32)
        for node in NAMES:
            rpc[node], self.s3[node], self.admin[node] = free_port(), free_port(), free_port()
            config = processes.write(f"{node}.toml", f"""
metadata_dir = "{self.folder}/{node}/meta"
data_dir = "{self.folder}/{node}/data"
db_engine = "lmdb"
metadata_fsync = {str(synced).lower()}
data_fsync = {str(synced).lower()}
compression_level = "none"
replication_factor = 3
rpc_secret = "{secret}"
rpc_bind_addr = "127.0.0.1:{rpc[node]}"
rpc_public_addr = "127.0.0.1:{rpc[node]}"
[s3_api]
s3_region = "{REGION}"
api_bind_addr = "127.0.0.1:{self.s3[node]}"
[admin]
api_bind_addr = "127.0.0.1:{self.admin[node]}"
admin_token = "{self.token}"
""")
            self.pids[node] = processes.start(node, ["env", "RUST_LOG=warn", options.garage, "-c", config, "server"])
        for node in NAMES:
            wait_until(f"{node} answers", lambda: self.answers(node))
        ids = {node: next(iter(self.ask(node, "GetNodeInfo?node=self")["success"])) for node in NAMES}
        self.ask("A", "ConnectClusterNodes", [f"{ids[node]}@127.0.0.1:{rpc[node]}" for node in NAMES[1:]])
        roles = [{"id": ids[node], "zone": node, "capacity": 1 << 40, "tags": []} for node in NAMES]
        self.ask("A", "UpdateClusterLayout", {"roles": roles})
        self.ask("A", "ApplyClusterLayout", {"version": 1})
        wait_until("the layout is everywhere", lambda: all(self.is_healthy(node) for node in NAMES), 60)
        self.access, self.secret = "GK" + secrets.token_hex(12), secrets.token_hex(32)
        self.ask("A", "ImportKey", {"accessKeyId": self.access, "secretAccessKey": self.secret, "name": "bench"})
        bucket = self.ask("A", "CreateBucket", {"globalAlias": BUCKET})["id"]
        permissions = {"read": True, "write": True, "owner": True}
        self.ask("A", "AllowBucketKey", {"bucketId": bucket, "accessKeyId": self.access, "permissions": permissions})
        self.server = Server(self.s3["A"])
        self.seen = {}

    def ask(self, node, call, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin[node], timeout=30)
        text = None if body is None else json.dumps(body)
        fields = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        connection.request("POST" if body is not None else "GET", f"/v2/{call}", text, fields)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise SystemExit(f"garage {node} answers {call} with {answer.status} {said!r}")
        return json.loads(said)

    def answers(self, node):
        try:
            return bool(self.ask(node, "GetNodeInfo?node=self"))
        except (OSError, http.client.HTTPException):
            return False

    def is_healthy(self, node):
        health = self.ask(node, "GetClusterHealth")
        return health["status"] == "healthy" and health["storageNodes"] == len(NAMES) and health["partitionsAllOk"] == 256

    def signed(self, method, key, length):
        """A head with the Signature Version 4 of AWS, of a payload that is not in it."""
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        host, path = f"127.0.0.1:{self.server.port}", f"/{BUCKET}/{key}"
        names = "host;x-amz-content-sha256;x-amz-date"
        fields = f"host:{host}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:{now}\n"
        request = f"{method}\n{path}\n\n{fields}\n{names}\nUNSIGNED-PAYLOAD"
        scope = f"{now[:8]}/{REGION}/s3/aws4_request"
        signing = f"AWS4{self.secret}".encode()
        for part in [*scope.split("/"), f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"]:
            signing = hmac.digest(signing, part.encode(), "sha256")
        signature = f"AWS4-HMAC-SHA256 Credential={self.access}/{scope}, SignedHeaders={names}, Signature={signing.hex()}"
        return (f"{method} {path} HTTP/1.1\r\nhost: {host}\r\nx-amz-date: {now}\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\n"
                f"authorization: {signature}\r\n" + (f"content-length: {length}\r\n" if length is not None else "")
                + "\r\n").encode()

    def put(self, key, content):
        return Request(self.signed("PUT", key, content.size), sent=content)

    def get(self, key, content):
        return Request(self.signed("GET", key, None), wanted=content)

    def counts(self):
        """What each node holds: rows of its tables, rows that wait to be inserted, and whole blocks on its disk."""
        found = {}
        for node in NAMES:
            stats = next(iter(self.ask(node, "GetNodeStatistics?node=self")["success"].values()))["tableStats"]
            tables = {table["tableName"]: table for table in stats}
            waiting = sum(table["insertQueueLen"] for table in stats)
            rows = [tables[name]["items"] for name in ["object", "version", "block_ref"]]
            found[node] = (rows, waiting)
        return found

    def blocks(self, node):
        files = (name for _, _, names in os.walk(self.folder / node / "data") for name in names)
        return sum(len(name.partition(".")[0]) == 64 and not name.endswith(".tmp") for name in files)

    def begin(self):
        rows = self.counts()
        self.seen = {node: (rows[node][0], self.blocks(node)) for node in NAMES}

    def holders(self, count, size):
        parts = -(-size // BLOCK_BYTES) * count
        new = [count, count, parts]
        rows = self.counts()
        if not all(waiting == 0 and all(now >= before + more for now, before, more in zip(items, self.seen[node][0], new))
                   for node, (items, waiting) in rows.items()):
            return 0
        return sum(self.blocks(node) >= self.seen[node][1] + parts for node in NAMES)

    def check(self, prefix, count):
        pass


SYSTEMS = {
    "metacdn": Metacdn,
    "garage": Garage,
    "garage-fast": lambda processes, options: Garage(processes, options, "garage-fast", synced=False),
}


def upload(system, requests, count, size, connections, processes):
    """Uploads; answers what it took until two copies, until three, and afterwards."""
    system.begin()
    meter = Meter(system.pids)
    load = Load(system.server, requests, connections, processes)
    took = {}
    while not load.poll(0.05):
        pass
    seconds, cpu = load.finish(), meter.cpu_all()
    took["acknowledged"] = (seconds, cpu)
    if system.copies == 2:
        took["two"] = took["acknowledged"]
    deadline = time.monotonic() + 300
    while "three" not in took:
        holders = system.holders(count, size)
        now = (time.monotonic() - load.start, meter.cpu_all())
        if holders >= 2:
            took.setdefault("two", now)
        if holders >= 3:
            took["three"] = now
        if time.monotonic() > deadline:
            raise SystemExit(f"{system.name}: after 300 s only {holders} nodes hold all objects")
        time.sleep(0.02)
    meter.until_quiet()
    return took, meter.cpu_all() - took["three"][1], memory(meter)


def memory(meter):
    meter.end()
    return max(meter.peaks().values()), max(meter.anonymous.values())


def read(system, requests, connections, processes):
    meter = Meter(system.pids)
    seconds = Load(system.server, requests, connections, processes).finish()
    cpu = meter.cpu_all()
    meter.until_quiet()
    return {"read": (seconds, cpu)}, meter.cpu_all() - cpu, memory(meter)


def rows_of(kind, measured, amount):
    took, later, (peak, own) = measured
    return {(kind, what): {"seconds": seconds, "rate": amount / seconds, "cpu": cpu, "per": amount / cpu, "later": later,
                           "peak": peak, "own": own}
            for what, (seconds, cpu) in took.items()}


def run(name, number, options):
    """One run of a system: everything, on a cluster of its own."""
    rows = {}
    with Processes(options.folder) as processes:
        system = SYSTEMS[name](processes, options)
        if number == 0 and system.copies == 1:
            print("This metacdn cannot wait for two copies: it answers when one node has an upload.", flush=True)
        kinds = [("small", options.objects, options.small_bytes, 32, 2),
                 ("large", options.large, options.large_mib << 20, 4, 4)]
        for kind, count, size, connections, workers in kinds:
            contents = {f"{kind}/{item:06}": Content(item, size) for item in range(count)}
            amount = count if kind == "small" else count * size / 1e6
            puts = [system.put(key, content) for key, content in contents.items()]
            rows |= rows_of(f"{kind} upload", upload(system, puts, count, size, connections, workers), amount)
            system.check(f"{kind}/", count)
            gets = [system.get(key, content) for key, content in contents.items()]
            rows |= rows_of(f"{kind} read", read(system, gets, connections, workers), amount)
    return rows


def table(runs, names):
    print(f"{'load':13} {'until':12} {'system':12} {'seconds':>8} {'rate':>8} {'CPU s':>7} {'later':>6} {'/CPU s':>8}"
          f" {'peak MiB':>8} {'own':>5}   metacdn's /CPU s")
    medians = {name: {row: {field: statistics.median(one[row][field] for one in runs[name]) for field in runs[name][0][row]}
                      for row in runs[name][0]} for name in names}
    for row in medians[names[0]]:
        ours = medians.get("metacdn", {}).get(row)
        for name in names:
            m = medians[name][row]
            ratio = f"   x{ours['per'] / m['per']:.2f}" if ours and name != "metacdn" else ""
            print(f"{row[0]:13} {row[1]:12} {name:12} {m['seconds']:8.2f} {m['rate']:8.0f} {m['cpu']:7.2f} {m['later']:6.2f}"
                  f" {m['per']:8.0f} {m['peak']:8.0f} {m['own']:5.0f}{ratio}")
    print("rate and /CPU s: objects a second (small), MB a second (large)", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--garage", default=shutil.which("garage"), help="the program, where it is not in PATH")
    parser.add_argument("--systems", default=",".join(SYSTEMS), type=lambda text: text.split(","), help="some of them")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each system")
    parser.add_argument("--objects", type=int, default=10_000, help="small objects")
    parser.add_argument("--small-bytes", type=int, default=4 << 10, help="size of each")
    parser.add_argument("--large", type=int, default=4, help="large objects")
    parser.add_argument("--large-mib", type=int, default=256, help="size of each")
    parser.add_argument("--folder", type=Path, help="where the data of a run is for its time (3 GB)")
    options = parser.parse_args()
    if unknown := set(options.systems) - set(SYSTEMS):
        parser.error(f"there are no systems {unknown}")
    if not options.garage and options.systems != ["metacdn"]:
        parser.error("no garage: cargo install garage --locked --root /tmp/garage")
    options.garage = options.garage and Path(options.garage).resolve()
    print(f"$ {shlex.join([sys.argv[0], *sys.argv[1:]])}", flush=True)
    runs = {name: [] for name in options.systems}
    for number in range(options.rounds):
        for name in options.systems if number % 2 == 0 else reversed(options.systems):
            runs[name].append(run(name, number, options))
            said = [f"{' '.join(row)} {m['seconds']:.1f} s, {m['cpu']:.1f} CPU s" for row, m in runs[name][-1].items()]
            print(f"# {number + 1} {name}: {'; '.join(said)}", flush=True)
    table(runs, options.systems)


if __name__ == "__main__":
    main()
