"""What the benchmarks of nodes share: nodes of a release build as processes of their own, and what processes spend."""

import http.client
import json
import os
import ssl
import subprocess
import threading
import time
from pathlib import Path

from edge_cluster import NODE_HOST, ROOT, answers, free_port, memory_mib, process_cpu_ns, wait_until
from load import Request, Server


class Nodes:
    """A cluster of nodes, each with a folder, a certificate and ports of its own; `later` are not started yet."""

    def __init__(self, processes, names, later=(), settings="", program=None):
        self.processes, self.names, self.settings = processes, names, settings
        self.program = Path(program or ROOT / "target/release/metacdn").resolve()
        if not self.program.exists():
            raise SystemExit("build it first: cargo build --release")
        self.ports = {name: [free_port() for _ in range(3)] for name in names}
        self.pids, self.asking = {}, {}
        self.metacdn("certs", "init")
        for role, name in [("client", "me"), *[("node", name) for name in names]]:
            self.metacdn("certs", "issue", role, name)
        for name in names:
            if name not in later:
                self.start(name)
        self.meet()

    def metacdn(self, *arguments):
        environment = {**os.environ, "METACDN_HOME": str(self.processes.folder)}
        ran = subprocess.run([self.program, *arguments], capture_output=True, text=True, env=environment)
        if ran.returncode:
            raise SystemExit(f"metacdn {' '.join(arguments)}: {ran.stderr}")

    def start(self, name):
        """Starts a node, for the first time or again, and waits until it is ready."""
        api, download, price = self.ports[name]
        config = self.processes.write(f"{name}.toml", f"""[identity]
authority = "certs/authority.pem"
certificate = "certs/{name}.pem"
key = "certs/{name}.key"
[log]
filter = "warn"
[node]
id = "{name}"
data = "{name}"
listen = "127.0.0.1:{api}"
download_listen = "127.0.0.1:{download}"
price_listen = "127.0.0.1:{price}"
seeds = ["127.0.0.1:{self.ports[self.names[0]][0]}"]
{self.settings}
""")
        self.pids[name] = self.processes.start(name, [self.program, "run", "--config", config])
        wait_until(f"{name} is ready", lambda: answers(price, "/ready"), 60)

    def stop(self, name):
        self.processes.stop(self.pids.pop(name))
        self.asking.pop(name, None)

    def server(self, name):
        certs = self.processes.folder / "certs"
        return Server(self.ports[name][0], (certs / "authority.pem", certs / "me.pem", certs / "me.key"))

    def ask(self, name, path, method="GET", body=None):
        """What a node says, from JSON, over a connection that is kept."""
        for again in [True, False]:
            if name not in self.asking:
                self.asking[name] = self.connect(name)
                again = False
            try:
                self.asking[name].request(method, path, body, {"host": NODE_HOST})
                answer = self.asking[name].getresponse()
                said = answer.read()
                break
            except (OSError, http.client.HTTPException):
                # A node closes what it was not asked over for a minute, so a connection that was kept may be gone.
                self.asking.pop(name).close()
                if not again:
                    raise
        if answer.status // 100 != 2:
            raise SystemExit(f"{name} answers {path} with {answer.status} {said!r}")
        return json.loads(said)

    def connect(self, name):
        authority, certificate, key = self.server(name).tls
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(certificate, key)
        context.check_hostname = False
        return http.client.HTTPSConnection("127.0.0.1", self.ports[name][0], context=context, timeout=30)

    def meet(self, seconds=60):
        """Waits until all that were started know each other."""
        wait_until("all nodes know each other", lambda: all(map(self.knows_all, list(self.pids))), seconds)

    def knows_all(self, name):
        servers = self.ask(name, "/v1/servers")["servers"]
        return {server["id"] for server in servers if server["liveness"] == "alive"} >= set(self.pids)

    def marks(self):
        """How far the feed of each node goes, from which `holds` counts."""
        return {name: self.ask(name, "/v1/ping")["head"] for name in self.pids}

    def holds(self, name, mark, count):
        """Whether a node has listed so many new keys since `mark` and lacks no bytes of what it knows."""
        pong = self.ask(name, "/v1/ping")
        return pong["head"] >= mark + count and pong["wants"] == 0

    def check(self, prefix, count):
        """Raises unless every node lists exactly so many objects below `prefix`."""
        for name in self.pids:
            found, after = 0, ""
            while after is not None:
                page = self.ask(name, f"/v1/objects?prefix={prefix}" + (f"&after={after}" if after else ""))
                found, after = found + len(page["objects"]), page["next"]
            if found != count:
                raise SystemExit(f"{name} holds {found} of {count} objects below {prefix}")

    def waits_for_copies(self):
        """Whether an upload can wait until two nodes hold it."""
        try:
            copies = self.ask(self.names[0], "/v1/objects/probe?wait_for=2", "PUT", b"probe")["copies"]
        except SystemExit:
            return False
        listed = lambda name: self.ask(name, "/v1/objects?prefix=probe")["objects"]
        wait_until("all nodes hold the probe", lambda: all(map(listed, self.names)))
        return copies >= 2

    @staticmethod
    def put(key, content, query=""):
        head = f"PUT /v1/objects/{key}{query} HTTP/1.1\r\nhost: {NODE_HOST}\r\ncontent-length: {content.size}\r\n\r\n"
        return Request(head.encode(), sent=content)

    @staticmethod
    def get(key, content):
        return Request(f"GET /v1/objects/{key} HTTP/1.1\r\nhost: {NODE_HOST}\r\n\r\n".encode(), wanted=content)


def cpu_s(pid):
    """CPU seconds of all threads that a process has or had."""
    return process_cpu_ns(pid) / 1e9


class Meter:
    """What processes spend from when this is made until `end`: CPU, the most memory that is resident, and what of it is theirs
    alone (without the pages of mapped files, which the system may take back)."""

    def __init__(self, pids):
        self.pids = dict(pids)
        for pid in self.pids.values():
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        self.before = {name: cpu_s(pid) for name, pid in self.pids.items()}
        self.anonymous = dict.fromkeys(self.pids, 0.0)
        self.over = threading.Event()
        self.watch = threading.Thread(target=self.sample, daemon=True)
        self.watch.start()

    def sample(self):
        while True:
            for name, pid in self.pids.items():
                try:
                    self.anonymous[name] = max(self.anonymous[name], memory_mib(pid, "RssAnon"))
                except (OSError, AttributeError):
                    return
            if self.over.wait(0.1):
                return

    def cpu(self):
        return {name: cpu_s(pid) - self.before[name] for name, pid in self.pids.items()}

    def cpu_all(self):
        return sum(self.cpu().values())

    def peaks(self):
        return {name: memory_mib(pid, "VmHWM") for name, pid in self.pids.items()}

    def end(self):
        self.over.set()
        self.watch.join()

    def until_quiet(self, seconds=30, cores=0.05):
        """Waits until all together use less of a core than that for half a second, so that no load pays for another."""
        end, last = time.monotonic() + seconds, self.cpu_all()
        while time.monotonic() < end:
            time.sleep(0.5)
            now = self.cpu_all()
            if now - last < 0.5 * cores:
                return
            last = now
