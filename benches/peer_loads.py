"""What `peers.py` asks servers for, by which generator, and whether the answers are right before they are measured."""

import gzip
import hashlib
import http.client
import json
import re
import ssl
import subprocess
import sys
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from edge_cluster import wait_until
from peer_servers import CLIENT_CORE

HERE = Path(__file__).resolve().parent
# From here on wrk, which copies every byte, would be what is measured.
DRAINED_BYTES = 100 << 10
# Where requests have to differ: a name of its own for each run, and then a number for each request.
UNIQUE = """local count, path = 0, nil
init = function(arguments) path = arguments[1] end
request = function() count = count + 1; return wrk.format("GET", path .. count) end
"""
STREAMS = 10
UNITS_US = {"us": 1, "ms": 1e3, "s": 1e6, "m": 60e6}
UNITS_BYTES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


@dataclass(frozen=True)
class Load:
    """An object that is asked for, and how. `asks_origin` is whether each request reaches the origin, or None where that is not seen."""

    name: str
    size: int
    connections: int
    by: str = "http"
    headers: tuple = ()
    status: int = 200
    asks_origin: bool | None = False
    unique: bool = False


@dataclass(frozen=True)
class Done:
    """Answers, with parts of those that the end cut off where they are large; and the time that half of them took at most."""

    answers: float
    seconds: float
    p50_us: float | None = None


class Bad(SystemExit):
    """What came is not what was wanted, so nothing is measured."""


def said_by(command, seconds):
    pinned = ["taskset", "-c", str(CLIENT_CORE), *map(str, command)]
    ran = subprocess.run(pinned, capture_output=True, text=True, timeout=seconds + 90, stdin=subprocess.DEVNULL)
    if ran.returncode:
        raise Bad(f"{' '.join(pinned)}: {ran.stderr or ran.stdout}")
    return ran.stdout


def wrk(load, door, seconds, path, folder):
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "20s", "--latency"]
    for name, value in load.headers:
        command += ["-H", f"{name}: {value}"]
    if load.unique:
        (folder / "unique.lua").write_text(UNIQUE)
        command += ["-s", folder / "unique.lua"]
    said = said_by([*command, door.url + path, *(["--", path] if load.unique else [])], seconds)
    count, took, bytes_read = re.search(r"(\d+) requests in ([\d.]+\w+), ([\d.]+\w+) read", said).groups()
    read, took = unit(bytes_read, UNITS_BYTES), unit(took, UNITS_US) / 1e6
    # wrk does not count what the end cuts off; of large answers that is much, and may be all.
    whole, count = int(count), read / load.size if load.size >= DRAINED_BYTES else int(count)
    if re.search(r"Non-2xx|Socket errors", said) or not count or read < 0.98 * whole * load.size:
        raise Bad(f"{door.server}, {load}: {said}")
    return Done(count, took, unit(re.search(r"^\s+50%\s+(\S+)", said, re.MULTILINE).group(1), UNITS_US))


def unit(text, units):
    number, name = re.fullmatch(r"([\d.]+)([a-zA-Z]+)", text).groups()
    return float(number) * units[name]


def h2load(load, door, seconds, path, _):
    command = ["h2load", "-t1", f"-c{load.connections}", f"-m{STREAMS}", f"-D{seconds}", door.url + path]
    said = said_by(command, seconds)
    done = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", said)
    ok, data = re.search(r"status codes: (\d+) 2xx", said), re.search(r"\((\d+)\) data", said)
    if "Application protocol: h2\n" not in said or not done or not int(done.group(1)) or int(done.group(3)) or int(done.group(4)):
        raise Bad(f"{door.server}, {load}: {said}")
    count = int(done.group(2))
    if int(ok.group(1)) < count or int(data.group(1)) < count * load.size:
        raise Bad(f"{door.server}, {load}: {said}")
    return Done(count, seconds)


def own(program, *flags):
    def run(load, door, seconds, path, _):
        more = [*flags, *(["--unique"] if load.unique else [])]
        said = json.loads(said_by([sys.executable, HERE / program, door.port, path, load.connections, seconds, *more], seconds))
        return Done(said["answers"], said["seconds"])
    return run


GENERATORS = {"wrk": wrk, "drain": own("drain.py"), "h2": h2load, "full": own("handshakes.py"),
              "resumed": own("handshakes.py", "--resume")}
NEEDS = {"wrk": ("wrk", "wrk"), "h2": ("h2load", "nghttp2-client")}


def generator(load, door):
    if load.by != "http":
        return load.by
    return "drain" if load.size >= DRAINED_BYTES and door.url.startswith("http:") else "wrk"


def run(load, door, seconds, number, folder):
    """One run; `number` is one that no other has."""
    path = f"/{load.name}" + (f"?{number}." if load.unique else "")
    return GENERATORS[generator(load, door)](load, door, seconds, path, folder)


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes
    tls: tuple | None


def fetch(door, load, path=None):
    """What a door answers, over TLS without a look at who signed the certificate."""
    where = urllib.parse.urlparse(door.url)
    if where.scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(where.hostname, where.port, timeout=60, context=context)
    else:
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=60)
    # Only what the load says: http.client would refuse codings by itself.
    connection.putrequest("GET", path or f"/{load.name}", skip_accept_encoding=True)
    for name, value in load.headers:
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    tls = connection.sock.cipher()[:2] if where.scheme == "https" and connection.sock else None
    got = Answer(answer.status, answer.headers, answer.read(), tls)
    connection.close()
    return got


def check(load, door, content, origin, number):
    """Asks three times: each answer has to be right, and the origin has to be asked as often as this kind of answer says. Answers what
    was agreed on over TLS."""
    path = f"/{load.name}?check.{number}" if load.unique else None
    for _ in range(2):
        right(load, door, content, fetch(door, load, path))
    # What was just fetched may still be on its way into the cache.
    wait_until(f"{door.server} answers {load.name} as {door.kind}", lambda: state(load, door, content, origin, path))
    return fetch(door, load, path).tls


def state(load, door, content, origin, path):
    """Whether one more request is kept from the origin, or not. What was a miss before has to be a hit by now: it was stored."""
    before = origin.requests()
    right(load, door, content, fetch(door, load, path))
    asked = origin.requests() - before
    return load.asks_origin is None or (asked > 0) == (load.asks_origin and not load.unique)


def right(load, door, content, answer):
    body = gzip.decompress(answer.body) if answer.headers.get("content-encoding") == "gzip" else answer.body
    wanted = b"" if load.status == 304 else content
    if answer.status != load.status or hashlib.sha256(body).digest() != hashlib.sha256(wanted).digest():
        raise Bad(f"{door.server}, {door.kind}: {load} got {answer.status} with {len(answer.body)} bytes that are not those of the origin")
    if answer.tls and answer.tls[1] != "TLSv1.3":
        raise Bad(f"{door.server} speaks {answer.tls[1]}")


def check_origin(load, door, done, asked):
    """The requests that the origin had in a run have to fit to the answers."""
    fits = {None: True, False: asked <= 0.01 * done.answers + 4,
            True: asked >= 0.95 * done.answers - load.connections}[load.asks_origin]
    if not fits:
        raise Bad(f"{door.server}, {door.kind}: {load} took {asked} requests at the origin for {done.answers:.0f} answers")
