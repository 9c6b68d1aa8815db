#!/usr/bin/env python3
"""What the variants of a photograph of 12 megapixels cost metacdn, pyvips and Pillow: CPU on one thread.

    python3 -m venv .tools/bench && .tools/bench/bin/pip install 'pyvips[binary]' Pillow
    .tools/bench/bin/python benches/images.py [--rounds 15]

Fetches a photograph, makes a JPEG of 4000 by 3000 (quality 90, 4:2:0) of it, and lets each make 0.66 and 0.33 of it in
turn, at quality 85, 4:2:0, Lanczos. Each peer gets every way it has to do so; its best one counts.
"""

import argparse
import hashlib
import io
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import time
import urllib.request

os.environ["VIPS_CONCURRENCY"] = "1"

import pyvips  # noqa: E402
from PIL import Image  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
# A photograph of a lake by daylight, 4000 by 2250, which a crate has among its assets.
CRATE = "https://static.crates.io/crates/webp/webp-0.3.1.crate"
PHOTOGRAPH = "webp-0.3.1/assets/lake.jpg"
PHOTOGRAPH_SHA256 = "363f47ad3e6772b9023e9e0bad510ad000dd9866aae3f8d2119b11eb214888c4"
SCALES = {"medium": 0.66, "low": 0.33}
QUALITY = 85


def photograph() -> bytes:
    """The source: a JPEG of 12 megapixels."""
    path = TOOLS / "photographs" / "lake-4000x3000.jpg"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(CRATE) as answer:
            crate = tarfile.open(fileobj=io.BytesIO(answer.read()))
        lake = crate.extractfile(PHOTOGRAPH).read()
        if hashlib.sha256(lake).hexdigest() != PHOTOGRAPH_SHA256:
            sys.exit("the photograph is another one")
        whole = Image.open(io.BytesIO(lake)).convert("RGB")
        # Cut to 4:3 and enlarged a little, which a sharpening encoder does not notice.
        left = (whole.width - whole.height * 4 // 3) // 2
        cut = whole.crop((left, 0, left + whole.height * 4 // 3, whole.height))
        cut.resize((4000, 3000), Image.LANCZOS).save(path, quality=90, subsampling="4:2:0")
    return path.read_bytes()


def vips_load(source: bytes, **options) -> pyvips.Image:
    return pyvips.Image.new_from_buffer(source, "", **options)


def vips_save(image: pyvips.Image) -> int:
    return len(image.jpegsave_buffer(Q=QUALITY, strip=True, subsample_mode="on"))


def vips_each(source: bytes, wanted: list[str]) -> int:
    """Each from the original, streamed."""
    return sum(vips_save(vips_load(source, access="sequential").resize(SCALES[name])) for name in wanted)


def vips_thumbnail(source: bytes, wanted: list[str]) -> int:
    """Each by its own thumbnail, which decodes a fraction where it can."""
    width = vips_load(source).width
    sizes = [int(width * SCALES[name]) for name in wanted]
    return sum(vips_save(pyvips.Image.thumbnail_buffer(source, size, height=10**6)) for size in sizes)


def vips_mixed(source: bytes, wanted: list[str]) -> int:
    """Medium from the original, streamed; low by its thumbnail."""
    ways = {"medium": vips_each, "low": vips_thumbnail}
    return sum(ways[name](source, [name]) for name in wanted)


def vips_chained(source: bytes, wanted: list[str]) -> int:
    """Low from medium."""
    image, scale, size = vips_load(source, access="sequential"), 1, 0
    for name in wanted:
        image = image.resize(SCALES[name] / scale).copy_memory()
        scale = SCALES[name]
        size += vips_save(image)
    return size


def pillow_save(image: Image.Image) -> int:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return file.tell()


def pillow_size(source: bytes, name: str) -> tuple[int, int]:
    width, height = Image.open(io.BytesIO(source)).size
    return int(width * SCALES[name]), int(height * SCALES[name])


def pillow_each(source: bytes, wanted: list[str]) -> int:
    """All from one decoded original."""
    image = Image.open(io.BytesIO(source))
    return sum(pillow_save(image.resize(pillow_size(source, name), Image.LANCZOS)) for name in wanted)


def pillow_chained(source: bytes, wanted: list[str]) -> int:
    """Low from medium."""
    image, size = Image.open(io.BytesIO(source)), 0
    for name in wanted:
        image = image.resize(pillow_size(source, name), Image.LANCZOS)
        size += pillow_save(image)
    return size


def pillow_draft(source: bytes, wanted: list[str]) -> int:
    """Each decoded anew, at a fraction where that is enough."""
    size = 0
    for name in wanted:
        image = Image.open(io.BytesIO(source))
        target = pillow_size(source, name)
        image.draft("RGB", (target[0] * 3 // 2, target[1] * 3 // 2))
        size += pillow_save(image.resize(target, Image.LANCZOS))
    return size


PEERS = {
    "pyvips": [vips_each, vips_thumbnail, vips_mixed, vips_chained],
    "Pillow": [pillow_each, pillow_chained, pillow_draft],
}


class Ours:
    """The benchmark of the crate, which waits for what to do."""

    def __init__(self, binary: str, path: pathlib.Path):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([binary, "--serve", str(path)], stdin=pipe, stdout=pipe, text=True)

    def run(self, wanted: list[str]) -> tuple[float, int]:
        self.process.stdin.write(" ".join(wanted) + "\n")
        self.process.stdin.flush()
        milliseconds, size = self.process.stdout.readline().split()
        return float(milliseconds), int(size)


def timed(way, source: bytes, wanted: list[str]) -> tuple[float, int]:
    before = time.process_time()
    size = way(source, wanted)
    return (time.process_time() - before) * 1000, size


def binary() -> str:
    """Builds the benchmark and says where it is."""
    command = ["cargo", "build", "--release", "--bench", "images", "--message-format", "short"]
    subprocess.run(command, cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    found = [path for path in (target / "release" / "deps").glob("images-*") if not path.suffix]
    return str(max(found, key=lambda path: path.stat().st_mtime))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--file", type=pathlib.Path, help="another JPEG")
    options = arguments.parse_args()
    source = options.file.read_bytes() if options.file else photograph()
    path = options.file or TOOLS / "photographs" / "lake-4000x3000.jpg"
    ours = Ours(binary(), path)
    print(f"{Image.open(path).size} {len(source):,} bytes; libvips {pyvips.version(0)}.{pyvips.version(1)}")
    for wanted in (["medium", "low"], ["medium"], ["low"]):
        ways = [(f"{peer}, {way.__name__}", way) for peer, ways in PEERS.items() for way in ways]
        runs: dict[str, list[tuple[float, int]]] = {"metacdn": [], **{name: [] for name, _ in ways}}
        for _ in range(options.rounds + 1):
            runs["metacdn"].append(ours.run(wanted))
            for name, way in ways:
                runs[name].append(timed(way, source, wanted))
        medians = {name: statistics.median(run[0] for run in timings[1:]) for name, timings in runs.items()}
        print(f"\n{' and '.join(wanted)}:")
        for name, median in sorted(medians.items(), key=lambda item: item[1]):
            print(f"  {median:7.1f} ms  {median / medians['metacdn']:5.2f}  {runs[name][0][1]:>9,} bytes  {name}")


main()
