#!/usr/bin/env python3
"""Whom the cache lets go, beside what libcachesim does with the same requests.

    benches/eviction.py [--requests 100000] [--seed 1] [--lists WORD] [--shares 0.005,0.03,0.15] [--table FILE] [--check]

needs cargo and Python 3.11 with `libcachesim` (which brings numpy). Makes the lists of `eviction_lists.py`, gives each as a file
to `eviction.rs` and request by request to libcachesim, at capacities that are shares of the bytes of all objects of the list, and
compares which requests were hits. One core, about two minutes; four times as many requests take four times as long.

libcachesim's caches know no costs; ours is told what a miss costs, by one number: for "both" dollars + seconds x the value of a
second. Printed for each model of costs: by how many points (hundredths of what was asked for) ours answers more than the best of
S3-FIFO, SIEVE and LRU in each cell, and the mean of each. The table has all cells: the share of requests, of bytes and of costs
that each cache answered. `--check` fails where ours is behind by more than the cache promises. W-TinyLFU of libcachesim gives a
hundredth to its window, and keeps nothing where that is less than one object.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import libcachesim
import numpy as np

import eviction_lists

FOLDER = pathlib.Path(__file__).resolve().parent
THREE = ["S3FIFO", "Sieve", "LRU"]
OTHERS = ["GDSF", "WTinyLFU"]
# In points, for the measures of each model: what the cache promises against the best of the three.
PROMISES = {"misses": -0.5, "bytes": -1.0}
PROMISE = 0.0


@contextlib.contextmanager
def quiet():
    """libcachesim warns of each object that is larger than the cache."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def peer(name, ids, sizes, capacity):
    """Which requests the cache `name` of libcachesim answers."""
    # 2^18 slots of its table at first: by default it takes 128 MiB for each cache.
    cache = getattr(libcachesim, name)(cache_size=capacity, hashpower=18)
    request = libcachesim.Request()
    hits = np.zeros(len(ids), dtype=bool)
    for place, (object_id, size) in enumerate(zip(ids, sizes)):
        request.obj_id, request.obj_size, request.hv = object_id, size, 0
        hits[place] = cache.get(request)
    return hits


def ours(program, file, ids, sizes, told, capacities):
    records = np.zeros(len(ids), dtype=[("object", "<u8"), ("bytes", "<u4"), ("cost", "<f4")])
    records["object"], records["bytes"], records["cost"] = ids, sizes, told
    records.tofile(file)
    subprocess.run([program, file, *map(str, capacities)], check=True)
    return {capacity: np.fromfile(f"{file}.{capacity}.hits", dtype=np.uint8).astype(bool) for capacity in capacities}


def build():
    """Builds `eviction.rs` and answers where it is."""
    command = ["cargo", "bench", "--quiet", "--bench", "eviction", "--no-run", "--message-format", "json"]
    answer = subprocess.run(command, cwd=FOLDER.parent, check=True, stdout=subprocess.PIPE, text=True).stdout
    paths = [line.split('"executable":"')[1].split('"')[0] for line in answer.splitlines()
             if '"executable":"' in line and '"name":"eviction"' in line]
    return paths[-1]


def compare(program, folder, name, options, cells, table):
    ids, sizes = eviction_lists.make(name, options.requests, options.seed)
    footprint = int(sizes[np.unique(ids, return_index=True)[1]].sum())
    shares = {max(1, int(footprint * share)): share for share in options.shares}
    id_list, size_list = ids.tolist(), sizes.tolist()
    with quiet():
        peers = {(capacity, peer_name): peer(peer_name, id_list, size_list, capacity)
                 for capacity in shares for peer_name in THREE + OTHERS}
    for model, (told, counted) in eviction_lists.costs(ids, sizes).items():
        hits = ours(program, f"{folder}/list", ids, sizes, told, shares)
        judged = set(counted)
        measures = {"misses": np.ones(len(ids)), "bytes": sizes.astype(float), **counted}
        for capacity, share in shares.items():
            for measure, weights in measures.items():
                answered = {"ours": hits[capacity], **{peer_name: peers[capacity, peer_name] for peer_name in THREE + OTHERS}}
                points = {who: 100 * weights[which].sum() / weights.sum() for who, which in answered.items()}
                ahead = points["ours"] - max(points[who] for who in THREE)
                figures = [*(f"{value:.2f}" for value in points.values()), f"{ahead:+.2f}"]
                row = [name, f"{100 * share:g} %", model, measure, *figures]
                table.append("| " + " | ".join(row) + " |")
                if measure in judged:
                    kind = f"{model}: {measure}"
                    cells[kind].append((ahead, f"{name} at {100 * share:g} %", measure, points))
    print(f"{name}: {len(ids)} requests, {len(np.unique(ids))} objects, {footprint >> 20} MiB", file=sys.stderr)


def summary(cells):
    """Prints what came out, and answers whether all promises hold."""
    print("\n| told, and measured | cells | ahead: mean | worst | where | ours | " + " | ".join(THREE + OTHERS) + " |")
    print("|---|" + "---:|" * 3 + "---|" + "---:|" * (1 + len(THREE + OTHERS)))
    kept = True
    for kind, rows in cells.items():
        worst = min(rows, key=lambda row: row[0])
        means = [statistics.mean(row[3][who] for row in rows) for who in ["ours", *THREE, *OTHERS]]
        print(f"| {kind} | {len(rows)} | {statistics.mean(row[0] for row in rows):+.2f} | {worst[0]:+.2f} | {worst[1]} | "
              + " | ".join(f"{mean:.2f}" for mean in means) + " |")
        promise = PROMISES.get(worst[2], PROMISE)
        if worst[0] < promise:
            kept = False
            print(f"{kind}: {worst[0]:+.2f} points are less than the promised {promise:+.2f}", file=sys.stderr)
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lists", default="", help="only lists whose name has this word")
    parser.add_argument("--shares", type=lambda text: [float(share) for share in text.split(",")], default=[0.005, 0.03, 0.15])
    parser.add_argument("--table", help="file for all cells")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    names = [name for name in eviction_lists.LISTS if options.lists in name]
    if not names:
        sys.exit(f"no list has {options.lists!r} in its name")
    program, cells = build(), collections.defaultdict(list)
    table = ["| list | capacity | told | answered, in % | ours | " + " | ".join(THREE + OTHERS) + " | ahead |"]
    table.append("|---|---:|---|---|" + "---:|" * (2 + len(THREE + OTHERS)))
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            compare(program, folder, name, options, cells, table)
    if options.table:
        pathlib.Path(options.table).write_text("\n".join(table) + "\n")
    kept = summary(cells)
    if options.check and not kept:
        sys.exit(1)


if __name__ == "__main__":
    main()
