"""What the benchmarks of the edge share: a cluster of one node with its edges, as processes of a release build that end with
the benchmark."""

import ctypes
import http.client
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NODE = "AWS"
NODE_HOST = "node.metacdn.internal"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(what, condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited {seconds} s in vain until {what}")
        time.sleep(0.05)


def answers(port, path="/", status=200):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        connection.request("GET", path)
        return connection.getresponse().status == status
    except OSError:
        return False


class Processes:
    """Processes in a folder of their own; all are ended, by id, and the folder is removed when the block ends."""

    def __init__(self, folder=None):
        self.folder = Path(tempfile.mkdtemp(prefix="metacdn-bench-", dir=folder))
        self.started = []
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    def __enter__(self):
        # So that the block is left, and cleaned up, on a polite end too.
        signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit("ended by a signal")))
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            process.terminate()
        for process in self.started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name, command, core=None):
        pinned = ["taskset", "-c", str(core)] if core is not None else []
        with open(self.folder / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                [*pinned, *map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                # Whatever ends this program (prctl PR_SET_PDEATHSIG) ends what it started.
                preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGTERM))
        self.started.append(process)
        return process.pid

    def stop(self, pid):
        """Ends one of the processes before the block does, and waits for it."""
        process = next(process for process in self.started if process.pid == pid)
        self.started.remove(process)
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def write(self, name, text):
        (self.folder / name).write_text(text)
        return self.folder / name


def family(pid):
    """A process and those below it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            rest = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(rest[1]), []).append(int(stat.parent.name))
    found, ahead = [], [pid]
    while ahead:
        found.append(ahead.pop())
        ahead += parents.get(found[-1], [])
    return found


def process_cpu_ns(pid):
    """Nanoseconds of CPU of all threads that a process has or had, by the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def cpu_ns(pid):
    """Nanoseconds of CPU of a process and of those below it."""
    total = 0
    for member in family(pid):
        try:
            total += process_cpu_ns(member)
        except OSError:
            pass
    return total


def memory_mib(pid, field):
    """A field of /proc/PID/status, such as VmHWM, the most that was ever resident."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024


class Edges:
    """The authority of a cluster, and edges that it has certified; without a node they answer for sites alone."""

    seeds = ""

    def __init__(self, processes):
        self.processes = processes
        self.program = ROOT / "target/production/metacdn"
        if not self.program.exists():
            raise SystemExit("build it first: cargo build --profile production")
        self.metacdn("certs", "init")
        self.metacdn("certs", "issue", "edge", "edge")

    def metacdn(self, *arguments):
        environment = {**os.environ, "METACDN_HOME": str(self.processes.folder)}
        ran = subprocess.run([self.program, *arguments], capture_output=True, text=True, env=environment)
        if ran.returncode:
            raise SystemExit(f"metacdn {' '.join(arguments)}: {ran.stderr}")

    @staticmethod
    def identity(name):
        return (f'[identity]\nauthority = "certs/authority.pem"\ncertificate = "certs/{name}.pem"\n'
                f'key = "certs/{name}.key"\n[log]\nfilter = "warn"\n')

    def edge(self, name, core=None, more=""):
        """Starts an edge; `more` follows its settings. Answers its process and its port, once it is ready."""
        public, admin = free_port(), free_port()
        config = self.processes.write(f"{name}.toml", self.identity("edge") + f"""
[edge]
listen = "127.0.0.1:{public}"
admin_listen = "127.0.0.1:{admin}"
{self.seeds}
{more}
""")
        pid = self.processes.start(name, [self.program, "run", "--config", config], core)
        wait_until(f"{name} is ready", lambda: answers(admin, "/ready"))
        return pid, public

    def accepts(self, more):
        """Whether the program knows such settings of an edge."""
        config = self.processes.write("try.toml", self.identity("edge") + f"""
[edge]
{self.seeds}
{more}
""")
        return subprocess.run([self.program, "config", "check", "--config", config], capture_output=True).returncode == 0


class Cluster(Edges):
    """One node, and the edges before it."""

    def __init__(self, processes, core, node_serve=""):
        super().__init__(processes)
        self.metacdn("certs", "issue", "node", NODE)
        self.metacdn("certs", "issue", "client", "me")
        self.api, download, price = free_port(), free_port(), free_port()
        self.seeds = f'seeds = ["127.0.0.1:{self.api}"]'
        config = processes.write("node.toml", self.identity(NODE) + f"""
[node]
id = "{NODE}"
data = "node"
listen = "127.0.0.1:{self.api}"
download_listen = "127.0.0.1:{download}"
price_listen = "127.0.0.1:{price}"
{node_serve}
""")
        self.node = processes.start("node", [self.program, "run", "--config", config], core)
        wait_until("the node is ready", lambda: answers(price, "/ready"))

    def connect(self):
        """A connection to the node's API."""
        certs = self.processes.folder / "certs"
        context = ssl.create_default_context(cafile=certs / "authority.pem")
        context.load_cert_chain(certs / "me.pem", certs / "me.key")
        # The name in the certificate is the node's, wherever it is.
        context.check_hostname = False
        return http.client.HTTPSConnection("127.0.0.1", self.api, context=context, timeout=60)

    def put(self, connection, key, content):
        connection.request("PUT", f"/v1/objects/{key}", content, {"host": NODE_HOST})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status not in (200, 201):
            raise SystemExit(f"the node refused {key}: {answer.status} {said!r}")
