"""The servers that `peers.py` compares, as processes that end with it: nginx, h2o, haproxy and Varnish as the packages of Debian 12 have
them, tuned as caching proxies of one thread on one core before a plain origin, and edges of metacdn before the same.

What each of them is asked for is a door: a kind of answer (`hit`, `tls`, `pass`, ...) that is given at an URL."""

import os
import re
import shutil
import subprocess
import urllib.request
from dataclasses import dataclass

from edge_cluster import NODE_HOST, answers, cpu_ns, free_port, wait_until

SERVER_CORE, CLIENT_CORE = 0, (os.cpu_count() or 1) - 1
PACKAGES = {"nginx": "nginx", "h2o": "h2o", "haproxy": "haproxy", "varnish": "varnish"}
PROGRAMS = {"nginx": "nginx", "h2o": "h2o", "haproxy": "haproxy", "varnish": "varnishd"}
# As much as each cache may keep, in memory or on the disk.
CACHE_MIB = 1024
KEPT_ALIVE = "keepalive 1024; keepalive_requests 100000000; keepalive_timeout 600s;"


@dataclass(frozen=True)
class Door:
    """A way to ask a server for a kind of answer; several of one server and kind are variants, of which the best counts."""

    server: str
    kind: str
    pids: tuple
    url: str
    variant: str = ""

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])

    def cpu_ns(self):
        return sum(map(cpu_ns, self.pids))


class Origin:
    """nginx with plain files, on the generator's core. It counts what it is asked for."""

    def __init__(self, processes):
        self.processes, self.port, self.counter = processes, free_port(), free_port()
        self.www = processes.folder / "www"
        self.www.mkdir()
        text = nginx_base(processes.folder, "origin", False) + f"""
  types {{ text/html html; }}
  server {{ listen 127.0.0.1:{self.port} backlog=4096; root {self.www}; add_header Cache-Control "max-age=86400"; }}
  server {{ listen 127.0.0.1:{self.counter}; stub_status; }}
}}
"""
        self.pid = processes.start("origin", ["nginx", "-c", processes.write("origin.conf", text)], CLIENT_CORE)
        wait_until("the origin answers", lambda: answers(self.counter))
        self.asked_by_us = 0

    def publish(self, name, content):
        (self.www / name).write_bytes(content)

    def requests(self):
        """How many requests it has had, besides those for this number."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.counter}/", timeout=30) as answer:
            said = answer.read().decode()
        self.asked_by_us += 1
        return int(re.search(r"^ \d+ \d+ (\d+)", said, re.MULTILINE).group(1)) - self.asked_by_us


def certificate(folder):
    """An ECDSA P-256 certificate that all servers show, and one file with its key, too."""
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", folder / "tls.key", "-out", folder / "tls.pem"]
    subprocess.run(made, check=True, capture_output=True)
    (folder / "both.pem").write_bytes((folder / "tls.pem").read_bytes() + (folder / "tls.key").read_bytes())


def nginx_base(folder, name, log):
    """The begin of a configuration; `http` stays open."""
    user = "user root;\n" if os.geteuid() == 0 else ""
    paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    temporary = "\n".join(f"{path}_temp_path {folder}/{name}-{path};" for path in paths)
    access_log = f"{folder}/{name}-access.log combined buffer=64k flush=1s" if log else "off"
    return f"""{user}worker_processes 1; daemon off; pid {folder}/{name}.pid; error_log stderr warn; worker_rlimit_nofile 20000;
events {{ worker_connections 8192; multi_accept on; accept_mutex off; }}
http {{
{temporary}
access_log {access_log}; sendfile on; tcp_nodelay on; default_type application/octet-stream; output_buffers 4 128k;
keepalive_requests 100000000; keepalive_timeout 600s; open_file_cache max=10000 inactive=600s; open_file_cache_valid 600s;
proxy_http_version 1.1; proxy_set_header Connection "";
proxy_buffer_size 16k; proxy_buffers 32 64k; proxy_busy_buffers_size 512k;
"""


def nginx(processes, origin, log, cluster=None):
    """A proxy with several ways to send a hit, and one to pass each request on, to a node of metacdn, too."""
    folder = processes.folder
    # What is fastest depends on the size: under the congestion control bbr, corked answers of about 100 KiB wait for a
    # delayed ACK, and short ones are sent faster without sendfile.
    hits = {"nopush": "tcp_nopush on;", "sendfile": "tcp_nopush off;", "buffers": "sendfile off;"}
    ports = {name: free_port() for name in [*hits, "tls", "miss", "pass", *(["node"] if cluster else [])]}
    cached = "proxy_pass http://origin; proxy_cache_valid 200 1d; proxy_cache_lock on; proxy_cache"
    text = nginx_base(folder, "nginx", log) + "".join(f"""
proxy_cache_path {folder}/nginx-{zone} levels=1:2 keys_zone={zone}:32m max_size={CACHE_MIB}m inactive=1d use_temp_path=off;"""
    for zone in ["hits", "misses"]) + f"""
upstream origin {{ server 127.0.0.1:{origin.port}; {KEPT_ALIVE} }}
ssl_session_cache shared:tls:10m; ssl_session_timeout 1h; ssl_protocols TLSv1.3; http2_max_concurrent_streams 256;
server {{ listen 127.0.0.1:{ports["tls"]} ssl http2 backlog=4096;
  ssl_certificate {folder}/tls.pem; ssl_certificate_key {folder}/tls.key; location / {{ {cached} hits; }} }}
server {{ listen 127.0.0.1:{ports["miss"]} backlog=4096; location / {{ {cached} misses; }} }}
server {{ listen 127.0.0.1:{ports["pass"]} backlog=4096;
  location / {{ proxy_pass http://origin; proxy_max_temp_file_size 0; }} }}
""" + "".join(f"""server {{ listen 127.0.0.1:{ports[name]} backlog=4096; {how} location / {{ {cached} hits; }} }}
""" for name, how in hits.items()) + (node_proxy(folder, cluster, ports["node"]) if cluster else "") + "}\n"
    pid = processes.start("nginx", ["nginx", "-c", processes.write("nginx.conf", text)], SERVER_CORE)
    wait_until("nginx answers", lambda: answers(ports["pass"], "/1k"))
    door = lambda kind, name, scheme="http", variant="": Door("nginx", kind, (pid,), f"{scheme}://127.0.0.1:{ports[name]}", variant)
    return [*(door("hit", name, variant=name) for name in hits), door("tls", "tls", "https"), door("miss disk", "miss"),
            door("pass", "pass"), *([door("node", "node")] if cluster else [])]


def node_proxy(folder, cluster, port):
    certs = folder / "certs"
    return f"""
upstream node {{ server 127.0.0.1:{cluster.api}; {KEPT_ALIVE} }}
server {{ listen 127.0.0.1:{port} backlog=4096; location / {{
  # A header that is set here drops those set above: without Connection every request would be a handshake.
  proxy_pass https://node/v1/objects/; proxy_max_temp_file_size 0; proxy_set_header Host {NODE_HOST}; proxy_set_header Connection "";
  proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {certs}/me.pem; proxy_ssl_certificate_key {certs}/me.key;
  proxy_ssl_trusted_certificate {certs}/authority.pem; proxy_ssl_verify on; proxy_ssl_name {NODE_HOST}; proxy_ssl_server_name on;
}} }}
"""


def h2o(processes, origin, log, _):
    """h2o 2.2 has no cache for a proxy: it gives the origin's files themselves."""
    folder, plain, tls = processes.folder, free_port(), free_port()
    text = f"""num-threads: 1
max-connections: 8192
pid-file: {folder}/h2o.pid
http1-request-timeout: 600
http2-max-concurrent-requests-per-connection: 256
{"user: root" if os.geteuid() == 0 else ""}
{f"access-log: {folder}/h2o-access.log" if log else ""}
header.add: "Cache-Control: max-age=86400"
listen: {{ host: 127.0.0.1, port: {plain} }}
listen: {{ host: 127.0.0.1, port: {tls}, ssl: {{ certificate-file: {folder}/tls.pem, key-file: {folder}/tls.key, minimum-version: TLSv1.3 }} }}
hosts:
  default:
    paths:
      /: {{ file.dir: {origin.www} }}
"""
    pid = processes.start("h2o", ["h2o", "-m", "worker", "-c", processes.write("h2o.conf", text)], SERVER_CORE)
    wait_until("h2o answers", lambda: answers(plain, "/1k"))
    return [Door("h2o", "hit", (pid,), f"http://127.0.0.1:{plain}"), Door("h2o", "tls", (pid,), f"https://127.0.0.1:{tls}")]


def haproxy(processes, origin, log, _):
    folder, ports = processes.folder, {name: free_port() for name in ["hit", "tls", "pass"]}
    text = f"""global
  maxconn 7000
  nbthread 1
  tune.bufsize 65536
  tune.maxrewrite 1024
  tune.ssl.maxrecord 16384
  ssl-default-bind-options ssl-min-ver TLSv1.3
{"  log stdout format raw daemon" if log else ""}
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 600s
  option http-keep-alive
  option splice-auto
  http-reuse always
{"  log global" if log else ""}
{"  option httplog" if log else ""}
cache kept
  total-max-size {CACHE_MIB}
  max-object-size {200 << 20}
  max-age 86400
frontend cached
  bind 127.0.0.1:{ports["hit"]} backlog 4096
  bind 127.0.0.1:{ports["tls"]} ssl crt {folder}/both.pem alpn h2,http/1.1 backlog 4096
  http-request cache-use kept
  http-response cache-store kept
  default_backend origin
frontend passing
  bind 127.0.0.1:{ports["pass"]} backlog 4096
  default_backend origin
backend origin
  server origin 127.0.0.1:{origin.port} pool-max-conn -1
"""
    pid = processes.start("haproxy", ["haproxy", "-db", "-f", processes.write("haproxy.cfg", text)], SERVER_CORE)
    wait_until("haproxy answers", lambda: answers(ports["pass"], "/1k"))
    return [Door("haproxy", kind, (pid,), f"{'https' if kind == 'tls' else 'http'}://127.0.0.1:{port}")
            for kind, port in ports.items()]


def varnish(processes, origin, log, _):
    """Varnish keeps in memory. Its log is a ring of memory; without --log nothing is written there, with it varnishncsa reads it."""
    folder, port = processes.folder, free_port()
    vcl = processes.write("varnish.vcl", f"""vcl 4.1;
backend default {{ .host = "127.0.0.1"; .port = "{origin.port}"; .max_connections = 2000; }}
sub vcl_recv {{ unset req.http.Cookie; return (hash); }}
sub vcl_backend_response {{ set beresp.ttl = 1d; set beresp.grace = 1d; }}
""")
    work = folder / "varnish"
    mask = [] if log else ["-p", f"vsl_mask={varnish_records_off()}"]
    # So that a large object may take the place of as many small ones as it needs; else it answers 503.
    parameters = {"thread_pools": 1, "thread_pool_min": 1100, "thread_pool_max": 2200, "timeout_idle": 600, "listen_depth": 4096,
                  "nuke_limit": 1000000}
    pids = [processes.start("varnish", [
        "varnishd", "-F", "-j", "none", "-n", work, "-a", f"127.0.0.1:{port}", "-f", vcl, "-s", f"malloc,{CACHE_MIB}m", *mask,
        *(word for name, value in parameters.items() for word in ["-p", f"{name}={value}"])], SERVER_CORE)]
    wait_until("varnish answers", lambda: answers(port, "/1k"))
    if log:
        command = ["varnishncsa", "-n", work, "-w", folder / "varnish-access.log"]
        pids.append(processes.start("varnishncsa", command, SERVER_CORE))
    return [Door("varnish", kind, tuple(pids), f"http://127.0.0.1:{port}") for kind in ["hit", "miss memory"]]


def varnish_records_off():
    """The names of all kinds of records, each with a minus; they are underlined in what varnishd says of them."""
    lines = subprocess.run(["varnishd", "-x", "vsl"], capture_output=True, text=True, check=True).stdout.splitlines()
    return ",".join(f"-{name}" for name, line in zip(lines, lines[1:]) if name and re.fullmatch("-+", line))


STARTS = {"nginx": nginx, "h2o": h2o, "haproxy": haproxy, "varnish": varnish}


class Metacdn:
    """Edges of one thread, each begun when a door of its kind is first asked for."""

    def __init__(self, edges, origin, log):
        self.edges, self.origin, self.log, self.doors = edges, origin, log, {}
        if log and not edges.accepts(self.site() + self.logging("try")):
            raise SystemExit("this program has no [edge.access_log]: leave out --log")

    def logging(self, name):
        return f'[edge.access_log]\npath = "{name}-access.log"\n' if self.log else ""

    def site(self):
        return f'[[edge.site]]\nname = "site"\nhosts = ["127.0.0.1"]\norigins = ["http://127.0.0.1:{self.origin.port}"]\n'

    def door(self, kind):
        if kind not in self.doors:
            getattr(self, f"start_{kind.replace(' ', '_')}")()
        return self.doors[kind]

    def start(self, name, more, core=SERVER_CORE, threads=1):
        return self.edges.edge(name, core, f"threads = {threads}\n{more}{self.logging(name)}")

    def add(self, kind, pid, port, scheme="http"):
        self.doors[kind] = Door("metacdn", kind, (pid,), f"{scheme}://127.0.0.1:{port}")

    @staticmethod
    def disk(name, memory_mib=64):
        return (f'[edge.cache]\ncapacity_bytes = {memory_mib << 20}\n'
                f'[edge.cache.disk]\nfolder = "{name}-cache"\ncapacity_bytes = {CACHE_MIB << 20}\n')

    def start_hit(self):
        tls = free_port()
        shown = '[[edge.certificate]]\ncertificate = "tls.pem"\nkey = "tls.key"\n'
        pid, port = self.start("hit", f'tls_listen = "127.0.0.1:{tls}"\n{self.disk("hit")}{shown}{self.site()}')
        self.add("hit", pid, port)
        self.add("tls", pid, tls, "https")

    start_tls = start_hit

    def start_pass(self):
        self.add("pass", *self.start("pass", f"[edge.cache]\ncapacity_bytes = 0\n{self.site()}"))

    def start_miss_disk(self):
        self.add("miss disk", *self.start("miss-disk", f"{self.disk('miss')}{self.site()}"))

    def start_miss_memory(self):
        self.add("miss memory", *self.start("miss-memory", f"[edge.cache]\ncapacity_bytes = {CACHE_MIB << 20}\n{self.site()}"))

    def start_two_workers(self):
        two = self.start("two", f"{self.disk('two')}{self.site()}", f"{SERVER_CORE},{SERVER_CORE + 1}", 2)
        self.add("two workers", *two)

    def start_node(self):
        self.add("node", *self.start("node-edge", "[edge.cache]\ncapacity_bytes = 0\n"))


def missing():
    """The peers whose programs are not installed."""
    return [peer for peer, program in PROGRAMS.items() if not shutil.which(program)]
