#!/usr/bin/env python3
"""The edge beside nginx and haproxy: requests a second, and CPU time of the server for each, of the same objects on the same core.

    cargo build --release && benches/edge.py [--rounds 5] [--seconds 3]

needs Python 3.11, nginx, haproxy, wrk and two cores. Each server has core 0 for itself while it is asked; the generator (wrk)
and what the servers fetch from, the node and a plain nginx, share core 1. Runs are interleaved (A B C, C B A, ...), figures are
medians. CPU is that of all threads of a server, from /proc/PID/task/*/schedstat: the figure to compare where the generator is the
limit, and the one that others on the machine disturb least. "up" is what the node or origin spent for a request: 0 for a hit.
"core" is the share of its core that a server used: where it is low, something waits, or others use the machine.

hit       metacdn's edge with its cache, nginx with a cache on disk (in the page cache)
pass node metacdn's edge without its cache, nginx proxying to the same node over TLS with a client certificate, kept alive
pass http metacdn's edge without its cache, nginx and haproxy proxying to a plain origin, kept alive
"""

import argparse
import hashlib
import http.client
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time

from edge_cluster import NODE_HOST, Cluster, Processes, answers, cpu_ns, free_port, wait_until

OBJECTS = {"1k": (1 << 10, 64), "100k": (100 << 10, 64), "1m": (1 << 20, 32), "10m": (10 << 20, 16)}
SERVER_CORE, CLIENT_CORE = 0, 1
UNCACHED = "[edge.cache]\ncapacity_bytes = 0"


class Target:
    def __init__(self, kind, name, pid, upstream, port):
        self.kind, self.name, self.pid, self.upstream, self.port = kind, name, pid, upstream, port

    def body(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read() if answer.status == 200 else None


def nginx_base(folder, name):
    user = "user root;\n" if os.geteuid() == 0 else ""
    paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    temporary = "\n".join(f"{path}_temp_path {folder}/{name}-{path};" for path in paths)
    return f"""{user}worker_processes 1; daemon off; pid {folder}/{name}.pid; error_log stderr warn; worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
{temporary}
access_log off; sendfile on; tcp_nodelay on; default_type application/octet-stream;
keepalive_requests 100000000; keepalive_timeout 600s; open_file_cache max=1000 inactive=600s; open_file_cache_valid 600s;
proxy_http_version 1.1; proxy_set_header Connection "";
proxy_buffer_size 16k; proxy_buffers 32 64k; proxy_busy_buffers_size 512k;
"""


def start_nginx(processes, cluster):
    """A plain origin on the generator's core; a proxy on the servers' core, with several ways to send a hit."""
    folder, origin = processes.folder, free_port()
    text = nginx_base(folder, "origin") + f"server {{ listen 127.0.0.1:{origin}; root {folder}/www; }} }}\n"
    origin_pid = processes.start("origin", ["nginx", "-c", processes.write("origin.conf", text)], CLIENT_CORE)
    # What is fastest depends on the size: under the congestion control bbr, corked answers of about 100 KiB wait for a
    # delayed ACK, and short ones are sent faster without sendfile.
    hits = {"nopush": "tcp_nopush on;", "sendfile": "tcp_nopush off;", "buffers": "sendfile off;"}
    ports = {name: free_port() for name in [*hits, "node", "http"]}
    kept = "keepalive 1024; keepalive_requests 100000000; keepalive_timeout 600s;"
    certs = folder / "certs"
    text = nginx_base(folder, "proxy") + f"""
proxy_cache_path {folder}/nginx-cache levels=1:2 keys_zone=cache:8m max_size=1g inactive=1d use_temp_path=off;
upstream origin {{ server 127.0.0.1:{origin}; {kept} }}
upstream node {{ server 127.0.0.1:{cluster.api}; {kept} }}
""" + "".join(f"""server {{ listen 127.0.0.1:{ports[name]}; {how}
  location / {{ proxy_pass http://origin; proxy_cache cache; proxy_cache_valid 200 1d; proxy_cache_lock on; }} }}
""" for name, how in hits.items()) + f"""
server {{ listen 127.0.0.1:{ports["http"]}; location / {{ proxy_pass http://origin; proxy_max_temp_file_size 0; }} }}
server {{ listen 127.0.0.1:{ports["node"]}; location / {{
  # A header that is set here drops those set above: without Connection every request would be a handshake.
  proxy_pass https://node/v1/objects/; proxy_max_temp_file_size 0; proxy_set_header Host {NODE_HOST}; proxy_set_header Connection "";
  proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {certs}/me.pem; proxy_ssl_certificate_key {certs}/me.key;
  proxy_ssl_trusted_certificate {certs}/authority.pem; proxy_ssl_verify on; proxy_ssl_name {NODE_HOST}; proxy_ssl_server_name on;
}} }}
}}
"""
    proxy_pid = processes.start("proxy", ["nginx", "-c", processes.write("proxy.conf", text)], SERVER_CORE)
    for port in [origin, *ports.values()]:
        wait_until("nginx answers", lambda: answers(port, "/1k"))
    hit_targets = {name: Target("hit", f"nginx {name}", proxy_pid, origin_pid, ports[name]) for name in hits}
    node = Target("pass node", "nginx", proxy_pid, cluster.node, ports["node"])
    return hit_targets, node, Target("pass http", "nginx", proxy_pid, origin_pid, ports["http"]), origin


def start_haproxy(processes, origin, origin_pid):
    """A proxy on the servers' core."""
    port = free_port()
    text = f"""global
  maxconn 7000
  nbthread 1
  tune.bufsize 65536
  tune.maxrewrite 1024
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 600s
  option http-keep-alive
  option splice-auto
  http-reuse always
frontend users
  bind 127.0.0.1:{port} backlog 4096
  default_backend origin
backend origin
  server origin 127.0.0.1:{origin} pool-max-conn -1
"""
    pid = processes.start("haproxy", ["haproxy", "-db", "-f", processes.write("haproxy.cfg", text)], SERVER_CORE)
    wait_until("haproxy answers", lambda: answers(port, "/1k"))
    return Target("pass http", "haproxy", pid, origin_pid, port)


def site_of(origin):
    """The settings of an edge that passes all on to a plain origin."""
    return f'''{UNCACHED}
[[edge.site]]
name = "site"
hosts = ["127.0.0.1"]
origins = ["http://127.0.0.1:{origin}"]
'''


def load(target, name, seconds):
    """One run: requests a second, CPU microseconds of the server and of what it fetches from for each, share of the core."""
    command = ["taskset", "-c", str(CLIENT_CORE), "wrk", "-t1", f"-c{OBJECTS[name][1]}", f"-d{seconds}s", "--timeout", "20s",
               f"http://127.0.0.1:{target.port}/{name}"]
    before, start = (cpu_ns(target.pid), cpu_ns(target.upstream)), time.monotonic()
    said = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60).stdout
    took, after = time.monotonic() - start, (cpu_ns(target.pid), cpu_ns(target.upstream))
    requests = int(re.search(r"(\d+) requests in", said).group(1))
    bad = re.search(r"Non-2xx.*|Socket errors.*", said)
    if bad or not requests:
        raise SystemExit(f"{target.name} failed: {shlex.join(command)}\n{said}")
    server, upstream = ((b - a) / 1e3 / requests for a, b in zip(before, after))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said).group(1))
    return {"rate": rate, "cpu": server, "up": upstream, "busy": server * requests / 1e6 / took}


def check(target, name, content):
    """Twice, so that a cache has it: the bytes are those that were published."""
    for _ in range(2):
        body = target.body(f"/{name}")
        if body is None or hashlib.sha256(body).digest() != hashlib.sha256(content).digest():
            raise SystemExit(f"{target.kind}, {target.name}: what comes for {name} is not what was published")


def measure(targets, name, options):
    runs = {target: [] for target in targets}
    for turn in range(options.rounds):
        for target in targets if turn % 2 == 0 else reversed(targets):
            runs[target].append(load(target, name, options.seconds))
    medians = {t: {f: statistics.median(run[f] for run in rs) for f in rs[0]} for t, rs in runs.items()}
    for target in targets:
        m, rates = medians[target], [run["rate"] for run in runs[target]]
        line = (f"{name:5} {target.kind:9} {target.name:15} {m['rate']:10.1f} [{min(rates):.0f} {max(rates):.0f}]"
                f"  {m['cpu']:9.1f} {m['up']:9.1f} {100 * m['busy']:4.0f} %")
        base = next((t for t in targets if t.kind == target.kind and t.name.startswith("nginx")), None)
        if target.name == "metacdn" and base:
            line += f"   x{m['rate'] / medians[base]['rate']:.2f} rate, x{m['cpu'] / medians[base]['cpu']:.2f} CPU"
        print(line, flush=True)


def run(options):
    with Processes() as processes:
        contents = {name: os.urandom(OBJECTS[name][0]) for name in {"1k": 0, **dict.fromkeys(options.sizes)}}
        www = processes.folder / "www"
        www.mkdir()
        cluster = Cluster(processes, CLIENT_CORE)
        connection = cluster.connect()
        for name, content in contents.items():
            (www / name).write_bytes(content)
            cluster.put(connection, name, content)
        hits, node, http, origin = start_nginx(processes, cluster)
        passing = [node, http, start_haproxy(processes, origin, http.upstream)]
        cached = cluster.edge("edge", SERVER_CORE)
        uncached = cached
        if cluster.accepts(UNCACHED):
            uncached = cluster.edge("uncached", SERVER_CORE, UNCACHED)
        else:
            print("This program has no cache: its hits are passed through, too.")
        ours = [Target(kind, "metacdn", pid, cluster.node, port)
                for kind, (pid, port) in [("hit", cached), ("pass node", uncached)]]
        if cluster.accepts(site_of(origin)):
            pid, port = cluster.edge("site", SERVER_CORE, site_of(origin))
            ours.append(Target("pass http", "metacdn", pid, http.upstream, port))
        else:
            print("This program has no sites: it passes nothing on to a plain origin.")
        for name in options.sizes:
            for target in [*ours, *hits.values(), *passing]:
                check(target, name, contents[name])
        print(f"{'size':5} {'what':9} {'server':15} {'requests/s [min max]':>24}  {'CPU us':>9} {'up us':>9} core")
        for name in options.sizes:
            # Of nginx's ways to send a hit the one that is fastest here is compared.
            best = max(hits.values(), key=lambda target: load(target, name, 1)["rate"])
            measure([ours[0], best, *ours[1:], *passing], name, options)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each server and size")
    parser.add_argument("--seconds", type=int, default=3, help="length of a run")
    parser.add_argument("--sizes", default=",".join(OBJECTS), type=lambda text: text.split(","), help="of 1k,100k,1m,10m")
    options = parser.parse_args()
    if unknown := set(options.sizes) - set(OBJECTS):
        parser.error(f"there are no objects of the sizes {unknown}")
    missing = [program for program in ["nginx", "haproxy", "wrk", "taskset"] if not shutil.which(program)]
    if missing or (os.cpu_count() or 1) < 2:
        raise SystemExit(f"needs two cores and {', '.join(missing or ['nothing else'])}: apt-get install nginx haproxy wrk util-linux")
    runs = len(options.sizes) * (options.rounds * 7 + 3)
    print(f"$ {shlex.join([sys.argv[0], *sys.argv[1:]])}   (about {runs * (options.seconds + 1) // 60 + 1} min)", flush=True)
    run(options)


if __name__ == "__main__":
    main()
