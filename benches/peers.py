#!/usr/bin/env python3
"""The edge beside nginx, h2o, haproxy and Varnish: one table of what a request costs each of them, with the goals.

    apt-get install nginx h2o haproxy varnish wrk nghttp2-client openssl util-linux
    cargo build --profile production && benches/peers.py [--only hit,tls] [--rounds 3] [--seconds 2] [--json FILE]

needs Python 3.11 and two cores; about 15 minutes, 6 GB of memory and 8 GB in --folder. Peers that are not installed are left out, and
said to be; nginx and wrk have to be there. Everything is on 127.0.0.1.

Each server runs on core 0; the generator and the origin, a plain nginx, on the last core. Runs are interleaved (A B C, C B A, ...), figures
are medians of --rounds. What counts is the CPU time of all threads of a server for a request (the clock of the process, which is the sum of
what /proc/PID/task/*/schedstat says, and of threads that have ended), work that is left when the generator ends included; for
one connection it is the time that half of the answers took. Ratios and goals are a peer's figure divided by metacdn's: more is better.
Requests a second stand beside it: for large answers it is the generator that limits them. --json has all runs, and of each the share of the
core that the server had and that others had: where both are low, something waits. A server's answers are compared with the origin's
bytes before it is measured, and the origin counts: a hit asks it for nothing, a miss is a hit when it is asked for again.
The requests that it had in each run have to fit, too.

hit        from a cache: metacdn's with its disk tier, nginx's on disk (in the page cache; the best of three ways to send, for each row),
           memory of haproxy and Varnish; h2o gives files, as it has no cache
form       304, a range of 1 KiB and a gzip variant beside metacdn's own plain hit of as many bytes (304: of 1 KiB), in the column "itself"
tls        hits over TLS 1.3, HTTP/1.1, with an ECDSA P-256 certificate
handshake  TLS 1.3 handshakes, full and resumed, each with one request, 8 connections at a time
h2         hits by HTTP/2 over TLS, 64 connections with 10 streams each
pass       passed on to the origin, nothing is kept
miss       each request for something new: fetched and stored, on disk beside nginx, in memory beside Varnish; 1 GiB each
workers    two threads on cores 0 and 1 beside metacdn's own one. Where there are two cores, the generator has a half of the second one
node       as pass, to a node of metacdn, over TLS with a client certificate

Generators: wrk; benches/drain.py for 100 KiB and more over plain HTTP, for wrk copies every byte; h2load; benches/handshakes.py. With
--log all servers write access logs, Varnish by varnishncsa. Metrics of metacdn are always counted.
"""

import argparse
import json
import os
import random
import shlex
import shutil
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from edge_cluster import Cluster, Edges, Processes, wait_until
from peer_loads import Load, NEEDS, check, check_origin, fetch, generator, run
from peer_servers import CLIENT_CORE, PACKAGES, SERVER_CORE, STARTS, Metacdn, Origin, certificate, missing

KIB, MIB = 1 << 10, 1 << 20
SIZES = {"1k": KIB, "10k": 10 * KIB, "100k": 100 * KIB, "1m": MIB, "10m": 10 * MIB, "100m": 100 * MIB}
COLUMNS = ["metacdn", *PACKAGES, "itself"]


@dataclass(frozen=True)
class Row:
    """What is asked for by `load` at all doors of a kind. `goals` are the least ratios, by peer. `itself` is a kind and a load of
    metacdn that it is compared with, instead of the peers."""

    name: str
    kind: str
    load: Load
    goals: dict
    figure: str = "cpu_us"
    itself: tuple | None = None


def plain(name, connections, **more):
    return Load(name, SIZES[name], connections, **more)


HIT_1K = plain("1k", 64)
ROWS = {
    "hit": [
        Row("hit 1 KiB", "hit", HIT_1K, {"nginx": 2.0, "h2o": 1.0}),
        Row("hit 10 KiB", "hit", plain("10k", 64), {"nginx": 1.8, "h2o": 1.1}),
        Row("hit 100 KiB", "hit", plain("100k", 64), {"nginx": 1.5}),
        Row("hit 1 MiB", "hit", plain("1m", 32), {"nginx": 1.0}),
        Row("hit 10 MiB", "hit", plain("10m", 16), {"nginx": 1.0}),
        Row("hit 100 MiB", "hit", plain("100m", 4), {"nginx": 1.0}),
        # At most three quarters of what nginx takes.
        Row("hit 1 KiB, 1 connection", "hit", plain("1k", 1), {"nginx": 1 / 0.75}, "p50_us"),
        Row("hit 1 KiB, 1,000 connections", "hit", plain("1k", 1000), {"nginx": 2.0}),
    ],
    "tls": [
        Row("TLS 1 KiB", "tls", HIT_1K, {"nginx": 2.3, "h2o": 1.0}),
        Row("TLS 100 KiB", "tls", plain("100k", 64), {"nginx": 1.8, "h2o": 1.0}),
        Row("TLS 10 MiB", "tls", plain("10m", 16), {"nginx": 1.5, "h2o": 1.0}),
    ],
    "handshake": [Row(f"handshake, {how}", "tls", plain("1k", 8, by=how), {"nginx": 1.0}) for how in ["full", "resumed"]],
    "h2": [Row("HTTP/2 1 KiB", "tls", plain("1k", 64, by="h2"), {"haproxy": 1.0, "h2o": 1.0})],
    "pass": [Row(f"pass {size}", "pass", plain(name, connections, asks_origin=True), {"nginx": 1.0, "haproxy": 1.0})
             for name, size, connections in [("1k", "1 KiB", 64), ("1m", "1 MiB", 32)]],
    "miss": [Row(f"miss {size}, {where}", f"miss {where}", plain(name, connections, asks_origin=True, unique=True), {peer: 1.0})
             for where, peer in [("disk", "nginx"), ("memory", "varnish")]
             for name, size, connections in [("10k", "10 KiB", 64), ("10m", "10 MiB", 8)]],
    # At most a twentieth more.
    "workers": [Row("two workers, 1 KiB", "two workers", HIT_1K, {"itself": 1 / 1.05}, itself=("hit", HIT_1K))],
    "node": [Row(f"pass to a node {size}", "node", plain(name, connections, asks_origin=None), {"nginx": 1.0})
             for name, size, connections in [("1k", "1 KiB", 64), ("100k", "100 KiB", 64), ("10m", "10 MiB", 16)]],
}
GROUPS = ["hit", "form", "tls", "handshake", "h2", "pass", "miss", "workers", "node"]


def form_rows(bench):
    """They need a tag and the size of a variant, which only answers tell."""
    door = bench.ours.door("hit")
    tag = fetch(door, HIT_1K).headers["etag"]
    text = "".join(bench.random.choices([f"<p>{word:x}</p>\n" for word in range(1 << 12)], k=3000)).encode()
    bench.publish("text.html", text)
    coded = Load("text.html", 0, 64, headers=(("Accept-Encoding", "gzip"),))
    # The 20th answer has the variant made anew, smaller, in the background.
    for _ in range(25):
        fetch(door, coded)
    settle(door)
    wait_until("a gzip variant is kept", lambda: fetch(door, coded).headers["content-length"])
    answer = fetch(door, coded)
    if answer.headers["content-encoding"] != "gzip":
        raise SystemExit(f"text.html came without gzip: {answer.headers}")
    coded = replace(coded, size=len(answer.body))
    bench.publish("as-coded", bench.random.randbytes(coded.size))
    within = {"itself": 1 / 1.15}
    return [
        Row("304 of 1 KiB", "hit", replace(HIT_1K, size=0, headers=(("If-None-Match", tag),), status=304), within,
            itself=("hit", HIT_1K)),
        Row("range, 1 KiB of 10", "hit", Load("10k", KIB, 64, headers=(("Range", "bytes=1024-2047"),), status=206), within,
            itself=("hit", HIT_1K)),
        Row(f"gzip, {coded.size / KIB:.1f} KiB", "hit", coded, within, itself=("hit", replace(coded, name="as-coded", headers=()))),
    ]


class Bench:
    """The origin with its objects, metacdn, and the doors of the peers."""

    def __init__(self, processes, peers, options, cluster=False):
        self.folder, self.options, self.random = processes.folder, options, random.Random(1)
        self.contents, self.agreed, self.runs = {}, {}, 0
        self.origin = Origin(processes)
        certificate(processes.folder)
        edges = (Cluster if cluster else Edges)(processes, *([CLIENT_CORE] if cluster else []))
        for name, size in SIZES.items():
            self.publish(name, self.random.randbytes(size))
        if cluster:
            connection = edges.connect()
            for name in {row.load.name for row in ROWS["node"]}:
                edges.put(connection, name, self.contents[name])
        self.ours = Metacdn(edges, self.origin, options.log)
        self.doors = [door for peer in peers for door in STARTS[peer](processes, self.origin, options.log, edges if cluster else None)]

    def publish(self, name, content):
        self.contents[name] = content
        self.origin.publish(name, content)

    def rows(self, group):
        return form_rows(self) if group == "form" else ROWS[group]

    def targets(self, row):
        """Columns of the table with the doors that are asked, and for what."""
        ours = [("metacdn", self.ours.door(row.kind), row.load)]
        if row.itself:
            kind, load = row.itself
            return [*ours, ("itself", self.ours.door(kind), load)]
        return [*ours, *((door.server, door, row.load) for door in self.doors if door.kind == row.kind)]

    def expected(self, load):
        content = self.contents[load.name]
        return content[KIB:2 * KIB] if load.status == 206 else content

    def once(self, door, load):
        """One run: what each answer took."""
        self.runs += 1
        asked, busy, cpu, start = self.origin.requests(), core_s(), door.cpu_ns(), time.monotonic()
        done = run(load, door, self.options.seconds, self.runs, self.folder)
        settle(door)
        took, cpu, busy = time.monotonic() - start, door.cpu_ns() - cpu, core_s() - busy
        check_origin(load, door, done, self.origin.requests() - asked)
        return {"cpu_us": cpu / 1e3 / done.answers, "rate": done.answers / done.seconds, "core": cpu / 1e9 / took,
                "others": max(0, busy - cpu / 1e9) / took, **({"p50_us": done.p50_us} if done.p50_us else {})}

    def measure(self, row):
        """The medians of all columns; of variants of one server, those of the best."""
        targets = self.targets(row)
        for _, door, load in targets:
            self.runs += 1
            tls = check(load, door, self.expected(load), self.origin, self.runs)
            if tls:
                self.agreed[door.server] = " ".join(tls[::-1])
            settle(door)
        runs = [[] for _ in targets]
        for turn in range(self.options.rounds):
            for number in range(len(targets))[::1 if turn % 2 == 0 else -1]:
                _, door, load = targets[number]
                runs[number].append(self.once(door, load))
        best = {}
        for (column, door, load), figures in zip(targets, runs):
            medians = {name: statistics.median(figure[name] for figure in figures) for name in figures[0]}
            medians |= {"variant": door.variant, "by": generator(load, door), "runs": figures}
            if column not in best or medians[row.figure] < best[column][row.figure]:
                best[column] = medians
        return best


def core_s():
    """How long the servers' core has worked."""
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{SERVER_CORE} "))
    user, nice, system, _, _, irq, soft_irq, *_ = map(int, line.split()[1:])
    return (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")


def settle(door, seconds=10):
    """Waits until a server has done what was left, such as writing what it keeps; not for ever, as some have work at all times."""
    end, last = time.monotonic() + seconds, door.cpu_ns()
    while time.monotonic() < end:
        time.sleep(0.1)
        now = door.cpu_ns()
        if now - last < 5_000_000:
            return
        last = now


def judged(row, columns):
    """Ratios of all peers, and whether the goals are reached; peers that are left out reach and miss nothing."""
    ours = columns["metacdn"][row.figure]
    ratios = {column: figures[row.figure] / ours for column, figures in columns.items() if column != "metacdn"}
    missed = [peer for peer, goal in row.goals.items() if peer in ratios and ratios[peer] < goal]
    absent = [peer for peer in row.goals if peer not in ratios]
    verdict = f"missed ({', '.join(f'{peer} {ratios[peer]:.2f}' for peer in missed)})" if missed else "reached"
    if absent:
        verdict = f"{verdict if len(absent) < len(row.goals) else 'unknown'}, without {', '.join(absent)}"
    return {"row": row.name, "figure": row.figure, "goals": row.goals, "columns": columns, "ratios": ratios, "verdict": verdict}


def cell(figures, figure):
    if not figures:
        return ""
    variant = f" {figures['variant']}" if figures["variant"] else ""
    return f"{'p50 ' if figure == 'p50_us' else ''}{figures[figure]:,.1f} us, {figures['rate']:,.0f}/s{variant}"


def line(cells):
    widths = [29, 29, *[26] * len(COLUMNS), 13, 0]
    return "| " + " | ".join(f"{text:{width}}" for text, width in zip(cells, widths)) + " |"


def print_head():
    print(line(["what", "goals: peer / metacdn", *COLUMNS, "best/metacdn", "verdict"]))
    print("|" + "---|" * (len(COLUMNS) + 4), flush=True)


def print_row(result):
    goals = ", ".join(f"{peer} {goal:.2f}" for peer, goal in result["goals"].items())
    cells = [cell(result["columns"].get(column), result["figure"]) for column in COLUMNS]
    best = min(result["ratios"], key=result["ratios"].get, default=None)
    ratio = f"{result['ratios'][best]:.2f} {best}" if best else ""
    print(line([result["row"], goals, *cells, ratio, result["verdict"]]), flush=True)


def up_to(most):
    def count(text):
        if not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"1 to {most}")
        return int(text)
    return count


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(GROUPS), type=lambda text: text.split(","), help=f"of {','.join(GROUPS)}")
    parser.add_argument("--rounds", type=up_to(99), default=3, help="runs of each server and row")
    parser.add_argument("--seconds", type=up_to(60), default=2, help="length of a run")
    parser.add_argument("--log", action="store_true", help="access logs, of all servers")
    parser.add_argument("--json", type=Path, help="a file for all runs")
    parser.add_argument("--folder", type=Path, help="where the objects and caches are meanwhile")
    options = parser.parse_args()
    if unknown := set(options.only) - set(GROUPS):
        parser.error(f"there is no {', '.join(unknown)}")
    return options


def left_out(options):
    """Says what is not installed, and leaves out what needs it; without nginx and wrk there is nothing to measure."""
    absent = missing()
    wanted = [PACKAGES[peer] for peer in absent]
    for program, package in [*NEEDS.values(), ("openssl", "openssl"), ("taskset", "util-linux")]:
        if not shutil.which(program):
            wanted.append(package)
    if wanted:
        print(f"left out, not installed: {', '.join(wanted)}   (apt-get install {' '.join(wanted)})", flush=True)
    if needed := set(wanted) & {"nginx", "wrk", "openssl", "util-linux"}:
        raise SystemExit(f"nothing can be measured without {', '.join(sorted(needed))}")
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("needs two cores")
    if "h2" in options.only and not shutil.which(NEEDS["h2"][0]):
        print("no rows h2 without h2load", flush=True)
        options.only = [group for group in options.only if group != "h2"]
    return [peer for peer in STARTS if peer not in absent]


def main():
    options = parsed()
    print(f"$ {shlex.join([sys.argv[0], *sys.argv[1:]])}", flush=True)
    peers = left_out(options)
    results, agreed = [], {}
    # With a cluster, edges have more to do than to answer: it is there for its own rows alone.
    alone = [group for group in options.only if group != "node"]
    for groups, servers, cluster in [(alone, peers, False), ([g for g in options.only if g == "node"], ["nginx"], True)]:
        if not groups:
            continue
        with Processes(options.folder) as processes:
            bench = Bench(processes, servers, options, cluster)
            if not results:
                print_head()
            for group in groups:
                for row in bench.rows(group):
                    results.append({"group": group, **judged(row, bench.measure(row))})
                    print_row(results[-1])
                    if options.json:
                        options.json.write_text(json.dumps({"arguments": sys.argv[1:], "rows": results}, indent=1) + "\n")
            agreed |= bench.agreed
    for server, words in agreed.items():
        print(f"{server}: {words}")
    others = [run["others"] for result in results for figures in result["columns"].values() for run in figures["runs"]]
    print(f"what else ran on core {SERVER_CORE} meanwhile: {statistics.median(others):.0%} of it, {max(others):.0%} at most")


if __name__ == "__main__":
    main()
