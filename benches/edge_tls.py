#!/usr/bin/env python3
"""The edge beside nginx over TLS: hits by HTTP/1.1 and HTTP/2, and handshakes, on the same core with the same certificate.

    cargo build --release && benches/edge_tls.py [--rounds 3] [--seconds 3]

needs Python 3.11, nginx, wrk, h2load, openssl and two cores. Each server has core 0 for itself while it is asked, the generators
core 1. Runs are interleaved, figures are medians. CPU is that of all threads of a server for each request, from
/proc/PID/task/*/schedstat: the figure to compare where the generator is the limit. Certificates are ECDSA P-256, all is TLS 1.3;
nginx answers from its cache on disk, which is in the page cache.

1k, 100k, 10m by wrk, 64 connections (16 for 10m), HTTP/1.1
h2 1k         by h2load, 64 connections with 10 streams each
full, resumed handshakes one after the other with one request each, by `openssl s_time`
"""

import argparse
import os
import re
import shlex
import shutil
import statistics
import subprocess
import time

from edge import SERVER_CORE, CLIENT_CORE, nginx_base
from edge_cluster import Cluster, Processes, answers, cpu_ns, free_port, wait_until

SIZES = {"1k": (1 << 10, 64), "100k": (100 << 10, 64), "10m": (10 << 20, 16)}


def certificate(folder):
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", folder / "tls.key", "-out", folder / "tls.pem"]
    subprocess.run(made, check=True, capture_output=True)


def start_nginx(processes):
    folder, origin, port = processes.folder, free_port(), free_port()
    text = nginx_base(folder, "origin") + f"server {{ listen 127.0.0.1:{origin}; root {folder}/www; }} }}\n"
    processes.start("origin", ["nginx", "-c", processes.write("origin.conf", text)], CLIENT_CORE)
    text = nginx_base(folder, "proxy") + f"""
proxy_cache_path {folder}/nginx-cache levels=1:2 keys_zone=cache:8m max_size=1g inactive=1d use_temp_path=off;
http2_max_requests 100000000; ssl_session_cache shared:tls:10m; ssl_session_timeout 1h; ssl_protocols TLSv1.3 TLSv1.2;
server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {folder}/tls.pem; ssl_certificate_key {folder}/tls.key;
  location / {{ proxy_pass http://127.0.0.1:{origin}; proxy_cache cache; proxy_cache_valid 200 1d; proxy_cache_lock on; }} }}
}}
"""
    pid = processes.start("proxy", ["nginx", "-c", processes.write("proxy.conf", text)], SERVER_CORE)
    wait_until("nginx answers", lambda: answers(origin, "/1k"))
    return pid, port


def said_by(command, seconds):
    pinned = ["taskset", "-c", str(CLIENT_CORE), *command]
    return subprocess.run(pinned, capture_output=True, text=True, timeout=seconds + 60, stdin=subprocess.DEVNULL).stdout


def wrk(port, name, seconds):
    said = said_by(["wrk", "-t1", f"-c{SIZES[name][1]}", f"-d{seconds}s", "--timeout", "20s",
                    f"https://127.0.0.1:{port}/{name}"], seconds)
    if re.search(r"Non-2xx|Socket errors", said):
        raise SystemExit(f"wrk: {said}")
    return int(re.search(r"(\d+) requests in", said).group(1))


def h2load(port, seconds):
    said = said_by(["h2load", "-t1", "-c64", "-m10", f"-D{seconds}", f"https://127.0.0.1:{port}/1k"], seconds)
    done = re.search(r"(\d+) done, (\d+) succeeded", said)
    if not done or done.group(1) != done.group(2):
        raise SystemExit(f"h2load: {said}")
    return int(done.group(2))


def handshakes(port, seconds, reuse):
    said = said_by(["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-www", "/1k", "-time", str(seconds),
                    "-reuse" if reuse else "-new"], seconds)
    return int(re.search(r"(\d+) connections in \d+ real seconds", said).group(1))


CASES = {
    **{name: (lambda port, seconds, name=name: wrk(port, name, seconds)) for name in SIZES},
    "h2 1k": h2load,
    "full": lambda port, seconds: handshakes(port, seconds, False),
    "resumed": lambda port, seconds: handshakes(port, seconds, True),
}


def measure(case, servers, options):
    runs = {name: [] for name in servers}
    for turn in range(options.rounds):
        for name, (pid, port) in list(servers.items())[::1 if turn % 2 == 0 else -1]:
            before, start = cpu_ns(pid), time.monotonic()
            requests = CASES[case](port, options.seconds)
            took, cpu = time.monotonic() - start, cpu_ns(pid) - before
            runs[name].append((requests / took, cpu / 1e3 / requests, cpu / 1e9 / took))
    medians = {name: [statistics.median(figures) for figures in zip(*rs)] for name, rs in runs.items()}
    for name, (rate, cpu, busy) in medians.items():
        line = f"{case:8} {name:8} {rate:10.1f} {cpu:9.1f} {100 * busy:4.0f} %"
        if name == "metacdn":
            line += f"   x{rate / medians['nginx'][0]:.2f} rate, x{cpu / medians['nginx'][1]:.2f} CPU"
        print(line, flush=True)


def run(options):
    with Processes() as processes:
        www = processes.folder / "www"
        www.mkdir()
        certificate(processes.folder)
        cluster = Cluster(processes, CLIENT_CORE)
        connection = cluster.connect()
        for name, (size, _) in SIZES.items():
            content = os.urandom(size)
            (www / name).write_bytes(content)
            cluster.put(connection, name, content)
        nginx = start_nginx(processes)
        tls = free_port()
        pid, _ = cluster.edge("edge", SERVER_CORE, f"""tls_listen = "127.0.0.1:{tls}"
[[edge.certificate]]
certificate = "tls.pem"
key = "tls.key"
""")
        servers = {"metacdn": (pid, tls), "nginx": nginx}
        print(f"{'case':8} {'server':8} {'a second':>10} {'CPU us':>9} core")
        for case in options.cases:
            for _, port in servers.values():
                CASES[case](port, 1)
            measure(case, servers, options)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each server and case")
    parser.add_argument("--seconds", type=int, default=3, help="length of a run")
    parser.add_argument("--cases", default=",".join(CASES), type=lambda text: text.split(","), help=f"of {', '.join(CASES)}")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"there are no cases {unknown}")
    missing = [program for program in ["nginx", "wrk", "h2load", "openssl", "taskset"] if not shutil.which(program)]
    if missing or (os.cpu_count() or 1) < 2:
        raise SystemExit(f"needs two cores and {missing}: apt-get install nginx wrk nghttp2-client openssl util-linux")
    print(f"$ {shlex.join(['benches/edge_tls.py'])}", flush=True)
    run(options)


if __name__ == "__main__":
    main()
