#!/usr/bin/env python3
"""What nodes spend on catching up after an outage, on doing nothing, and on readers meanwhile.

    cargo build --release && benches/catch_up.py [--what outage,foreground,idle]

needs Python 3.11. Everything runs on loopback of this machine, over mutual TLS, with every file and commit synced.

outage      node C is stopped, A takes many small objects and B takes them from A; then C is started. CPU seconds of each
            until C holds all of them: the goal is less than 60 for 100,000 objects, both sides together
foreground  as outage, and a client reads from one node at a fixed rate, before and while C catches up; latencies count from
            when a request was due. That node and the client have one core for themselves, the other nodes the other one, as
            if they were machines of their own. The goal: 99 of 100 take at most 1.5 times as long (median of runs in turn)
idle        many nodes with many keys on few blobs. One node takes all uploads, then the others join and take them from it and
            from each other; when all rest: CPU of each in a minute, and memory. The goal is less than 1 % of a core for each
            of 16 nodes with a million keys
"""

import argparse
import os
import shlex
import statistics
import sys
import time
from pathlib import Path

from edge_cluster import Processes, memory_mib
from load import Content, Load
from node_cluster import Meter, Nodes, cpu_s

NAMES = ["A", "B", "C"]
SMALL_BYTES = 4 << 10
BATCH = 100_000


def wait_for(what, condition, seconds):
    """As `wait_until`, but for long waits: it looks ten times a second."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited {seconds} s in vain until {what}")
        time.sleep(0.1)


def upload(nodes, keys, seed, blobs):
    """Uploads small objects to the first node, `blobs` different ones, without a wait for copies; answers the seconds."""
    seconds = 0
    for start in range(0, len(keys), BATCH):
        part = enumerate(keys[start:start + BATCH], seed + start)
        puts = [nodes.put(key, Content(item % blobs, SMALL_BYTES), "?wait_for=1") for item, key in part]
        seconds += Load(nodes.server(nodes.names[0]), puts).finish()
    return seconds


def fall_behind(nodes, number, options):
    """Stops C, gives the others objects that it lacks, and answers from where C has to count them."""
    marks = nodes.marks()
    nodes.stop("C")
    count = options.objects
    meter = Meter(nodes.pids)
    began = time.monotonic()
    uploaded = upload(nodes, [f"{number}/{item:07}" for item in range(count)], number * count, 1 << 60)
    wait_for("B holds all", lambda: nodes.holds("A", marks["A"], count) and nodes.holds("B", marks["B"], count), 1800)
    held, cpu = time.monotonic() - began, meter.cpu()
    meter.until_quiet()
    meter.end()
    print(f"# {number + 1}: {count} uploaded in {uploaded:.1f} s, held by two after {held:.1f} s,"
          f" CPU s {' '.join(f'{name} {seconds:.1f}' for name, seconds in cpu.items())}", flush=True)
    return marks["C"]


def outage(options):
    rows = []
    with Processes(options.folder) as processes:
        nodes = Nodes(processes, NAMES)
        for number in range(options.rounds):
            mark = fall_behind(nodes, number, options)
            meter, began = Meter(nodes.pids), time.monotonic()
            nodes.start("C")
            wait_for("C holds all", lambda: nodes.holds("C", mark, options.objects), 1800)
            seconds, cpu = time.monotonic() - began, meter.cpu()
            cpu["C"] = cpu_s(nodes.pids["C"])
            meter.end()
            peaks = {name: memory_mib(pid, "VmHWM") for name, pid in nodes.pids.items()}
            rows.append([seconds, *(cpu[name] for name in NAMES), sum(cpu.values()), *(peaks[name] for name in NAMES)])
            print(f"# {number + 1}: C holds all after {seconds:.1f} s, CPU s {rows[-1][4]:.1f}", flush=True)
            nodes.check(f"{number}/", options.objects)
            meter.until_quiet()
    print(f"{'outage':8} {'objects':>8} {'seconds':>8} {'CPU s A':>8} {'B':>6} {'C':>6} {'all':>6} {'us/object':>9}"
          f" {'peak MiB A':>10} {'B':>4} {'C':>4}")
    m = [statistics.median(column) for column in zip(*rows)]
    print(f"{'median':8} {options.objects:8} {m[0]:8.1f} {m[1]:8.1f} {m[2]:6.1f} {m[3]:6.1f} {m[4]:6.1f}"
          f" {m[4] / options.objects * 1e6:9.0f} {m[5]:10.0f} {m[6]:4.0f} {m[7]:4.0f}", flush=True)


def read(nodes, name, gets, rate):
    return Load(nodes.server(name), gets, connections=16, processes=2, rate=rate)


def pin(nodes, reader):
    """Gives the node that is read from, and what this process starts from now on, the last core, and the others the first."""
    cores = sorted(os.sched_getaffinity(1))
    for name, pid in nodes.pids.items():
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), {cores[-1] if name == reader else cores[0]})
    os.sched_setaffinity(0, {cores[-1]})


def read_meanwhile(nodes, reader, gets, number, options):
    """Reads before and while C catches up; answers both loads, when C had all, and for how much of the second that was not."""
    pin(nodes, reader)
    before = read(nodes, reader, gets, options.rate) if reader == "C" else None
    if before:
        before.finish()
    os.sched_setaffinity(0, os.sched_getaffinity(1))
    mark = fall_behind(nodes, number, options)
    pin(nodes, reader)
    if not before:
        before = read(nodes, reader, gets, options.rate)
        before.finish()
    nodes.start("C")
    pin(nodes, reader)
    during, end = read(nodes, reader, gets, options.rate), None
    while not during.poll(0.1):
        if end is None and nodes.holds("C", mark, options.objects):
            end = time.monotonic()
    last = max(during.ends)
    wait_for("C holds all", lambda: nodes.holds("C", mark, options.objects), 1800)
    return before, during, end, ((end or last) - during.start) / (last - during.start)


def foreground(options):
    ratios = {name: [] for name in options.readers}
    with Processes(options.folder) as processes:
        nodes = Nodes(processes, NAMES)
        hot = {f"hot/{item:04}": Content(-1 - item, SMALL_BYTES) for item in range(1000)}
        marks = nodes.marks()
        Load(nodes.server("A"), [nodes.put(key, content, "?wait_for=all") for key, content in hot.items()]).finish()
        wait_for("all hold what is read", lambda: all(nodes.holds(name, marks[name], len(hot)) for name in NAMES), 300)
        gets = [nodes.get(key, content) for key, content in hot.items()]
        gets = [gets[item % len(gets)] for item in range(int(options.rate * options.seconds))]
        print(f"foreground  read at  {'p50 ms':>7} {'p99':>7}   {'meanwhile p50':>13} {'p99':>7} {'ratio':>6}  of the time")
        for number in range(options.rounds * len(options.readers)):
            reader = options.readers[number % len(options.readers)]
            before, during, end, part = read_meanwhile(nodes, reader, gets, number, options)
            p99 = before.percentile_ms(99), during.percentile_ms(99, end)
            ratios[reader].append(p99[1] / p99[0])
            print(f"{number // len(options.readers) + 1:10}  {reader:7}  {before.percentile_ms(50):7.2f} {p99[0]:7.2f}"
                  f"   {during.percentile_ms(50, end):13.2f} {p99[1]:7.2f} {ratios[reader][-1]:6.2f}  {100 * part:.0f} %", flush=True)
            if part < 0.2:
                raise SystemExit("C had all too soon for this to be measured: take more --objects")
    for name, found in ratios.items():
        print(f"{'median':>10}  {name:7}  {statistics.median(found):46.2f}", flush=True)


def idle(options):
    names = [f"N{number:02}" for number in range(options.nodes)]
    keys = options.keys
    with Processes(options.folder) as processes:
        nodes = Nodes(processes, names, later=names[1:])
        meter = Meter(nodes.pids)
        uploaded = upload(nodes, [f"k/{item:07}" for item in range(keys)], 0, options.blobs)
        print(f"# {keys} keys on {options.blobs} blobs uploaded in {uploaded:.0f} s, CPU s {meter.cpu_all():.0f}", flush=True)
        meter.end()
        meter, began = Meter(nodes.pids), time.monotonic()
        for name in names[1:]:
            nodes.start(name)
        # Heads count the cluster's records, too; what a node lists is counted once, at the end.
        wait_for("all nodes hold all", lambda: all(nodes.holds(name, 0, keys) for name in names), 4 * 3600)
        seconds, spent = time.monotonic() - began, meter.cpu_all() + sum(cpu_s(nodes.pids[name]) for name in names[1:])
        meter.end()
        wait_for("all list all", lambda: all(nodes.ask(name, "/v1/status")["objects"] == keys for name in names), 600)
        peak = max(memory_mib(pid, "VmHWM") for pid in nodes.pids.values())
        print(f"# held by all {options.nodes} after {seconds:.0f} s, CPU s {spent:.0f}, peak {peak:.0f} MiB", flush=True)
        nodes.meet()
        meter = Meter(nodes.pids)
        # Their heartbeats go on.
        meter.until_quiet(300, cores=0.02 * options.nodes)
        meter.end()
        for _ in range(options.minutes):
            meter = Meter(nodes.pids)
            time.sleep(60)
            percent = sorted(100 * seconds / 60 for seconds in meter.cpu().values())
            meter.end()
            resident = [memory_mib(pid, "VmRSS") for pid in nodes.pids.values()]
            print(f"idle {options.nodes} nodes, {keys} keys: CPU of a core {statistics.median(percent):.2f} %"
                  f" [{percent[0]:.2f} {percent[-1]:.2f}], resident {statistics.median(resident):.0f} MiB"
                  f" [{min(resident):.0f} {max(resident):.0f}]", flush=True)


KINDS = {"outage": outage, "foreground": foreground, "idle": idle}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default=",".join(KINDS), type=lambda text: text.split(","), help="some of them")
    parser.add_argument("--rounds", type=int, default=5, help="runs of outage and foreground")
    parser.add_argument("--objects", type=int, default=100_000, help="what C misses in each run")
    parser.add_argument("--readers", default="A,C", type=lambda text: text.split(","), help="nodes that are read from meanwhile")
    parser.add_argument("--rate", type=float, default=200, help="reads a second")
    parser.add_argument("--seconds", type=float, default=10, help="length of reading")
    parser.add_argument("--nodes", type=int, default=16, help="idle nodes")
    parser.add_argument("--keys", type=int, default=1_000_000, help="keys of each of them")
    parser.add_argument("--blobs", type=int, default=1000, help="different blobs behind those keys")
    parser.add_argument("--minutes", type=int, default=1, help="how often idleness is measured")
    parser.add_argument("--folder", type=Path, help="where the data is for its time")
    options = parser.parse_args()
    if unknown := set(options.what) - set(KINDS):
        parser.error(f"there is no {', '.join(unknown)}")
    print(f"$ {shlex.join([sys.argv[0], *sys.argv[1:]])}", flush=True)
    for what in options.what:
        KINDS[what](options)


if __name__ == "__main__":
    main()
