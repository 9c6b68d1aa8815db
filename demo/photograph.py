"""Renders demo/site/images/photograph.jpg: a lake between mountains after sunset. It is nobody's photograph.

    pip install numpy pillow && python demo/photograph.py

The same numbers come of it in every run; the file need not be rendered anew unless the picture shall change.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

WIDTH, HEIGHT = 2000, 1333
SHORE = 0.66  # of the height
TARGET = Path(__file__).parent / "site/images/photograph.jpg"

# Below this an edge cannot tell a client's rate from the transfer; above it the demonstration takes longer.
BYTES_MIN, BYTES_MAX = 280_000, 300_000

random = np.random.default_rng(1913)


def noise(length: int, octaves: int, roughness: float) -> np.ndarray:
    """A line of fractal noise, from about -1 to 1."""
    line, position = np.zeros(length), np.linspace(0, 1, length)
    for octave in range(octaves):
        points = 3 * 2**octave + 1
        line += np.interp(position, np.linspace(0, 1, points), random.uniform(-1, 1, points)) * roughness**octave
    return line


def clouds(octaves: int, stretch: int) -> np.ndarray:
    """A field of fractal noise from 0 to 1, longer than high."""
    field = np.zeros((HEIGHT, WIDTH))
    for octave in range(octaves):
        size = (min(HEIGHT, 4 * stretch * 2**octave), 4 * 2**octave)
        layer = Image.fromarray(random.uniform(0, 255, size).astype(np.uint8))
        field += np.asarray(layer.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), float) / 255 * 0.55**octave
    return (field - field.min()) / (field.max() - field.min())


def blend(below: np.ndarray, above: np.ndarray, share: np.ndarray) -> np.ndarray:
    return below + (above - below) * share[..., None]


def sky() -> np.ndarray:
    """From blue above to orange at the horizon, with a glow and streaks of cloud that it lights from below."""
    heights = np.linspace(0, 1, HEIGHT) / SHORE
    places = (0.0, 0.35, 0.62, 0.85, 1.0)
    colours = ((38, 62, 112), (92, 112, 158), (196, 150, 150), (246, 178, 112), (255, 214, 150))
    column = np.stack([np.interp(heights, places, [colour[part] for colour in colours]) for part in range(3)], axis=1)
    image = np.repeat(column[:, None, :], WIDTH, axis=1)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    distance = np.hypot((columns - 0.64 * WIDTH) / WIDTH, (rows - 0.56 * HEIGHT) / HEIGHT * 1.5)
    image = blend(image, np.array([255, 236, 190]), np.exp(-((distance / 0.16) ** 2)) * 0.9)
    image = blend(image, np.array([255, 252, 236]), np.clip((0.028 - distance) / 0.004, 0, 1))
    streaks = np.clip(clouds(7, 3) * 2.4 - 1.15, 0, 1) * np.clip(1.15 - heights, 0, 1)[:, None]
    return blend(image, np.array([255, 196, 160]), streaks * 0.75)


def mountains(image: np.ndarray) -> np.ndarray:
    """Ridges, each darker and nearer than the one before, with mist in the valleys between."""
    rows = np.arange(HEIGHT)[:, None] / HEIGHT
    rock = clouds(8, 1)
    layers = [(0.47, 0.080, 0.56, (150, 140, 172)), (0.53, 0.075, 0.55, (112, 108, 146)),
              (0.58, 0.060, 0.54, (72, 80, 112)), (0.625, 0.045, 0.58, (40, 54, 74))]
    for height, depth, roughness, colour in layers:
        ridge = height + depth * noise(WIDTH, 9, roughness)
        inside = np.clip((rows - ridge[None, :]) * HEIGHT, 0, 1)
        below = np.clip((rows - ridge[None, :]) / 0.14, 0, 1)
        shade = np.array(colour)[None, None, :] * (0.78 + 0.44 * rock[..., None])
        misty = blend(shade, np.array([226, 178, 158]), below * 0.55 * (1 - height))
        image = blend(image, misty, inside)
    return image


def trees(image: np.ndarray) -> np.ndarray:
    """A line of firs along the far shore."""
    top = np.full(WIDTH, SHORE)
    for _ in range(420):
        middle = random.integers(0, WIDTH)
        tall = random.uniform(0.010, 0.042) * (0.55 + 0.45 * np.cos(random.uniform(0, 6)))
        half = max(3, int(tall * HEIGHT * 0.28))
        for column in range(max(0, middle - half), min(WIDTH, middle + half)):
            slope = 1 - abs(column - middle) / half
            top[column] = min(top[column], SHORE + 0.002 - tall * (slope - 0.12 * random.random()))
    rows = np.arange(HEIGHT)[:, None] / HEIGHT
    return blend(image, np.array([16, 26, 34]), np.clip((rows - top[None, :]) * HEIGHT, 0, 1))


def lake(image: np.ndarray) -> np.ndarray:
    """The lower part mirrors the upper one, darker, and torn by ripples that grow towards the viewer."""
    shore = int(SHORE * HEIGHT)
    depth = np.arange(HEIGHT - shore)
    share = depth / (HEIGHT - shore)
    ripple = np.asarray(Image.fromarray((clouds(7, 6) * 255).astype(np.uint8)), float)[: HEIGHT - shore] / 255 - 0.5
    waves = ripple + 0.35 * np.sin(depth[:, None] / (1.5 + 9 * share[:, None]) + 9 * ripple)
    mirrored = np.clip(shore - depth[:, None] * 0.92 - waves * (2 + 46 * share[:, None]), 0, shore - 1).astype(int)
    sideways = np.clip(np.arange(WIDTH)[None, :] + ripple * (2 + 30 * share[:, None]), 0, WIDTH - 1).astype(int)
    water = image[mirrored, sideways] * (0.80 - 0.22 * share[:, None, None]) + np.array([4, 10, 20])
    image[shore:] = water
    return image


def main() -> None:
    image = lake(trees(mountains(sky())))
    rows, columns = np.mgrid[-1:1:HEIGHT * 1j, -1:1:WIDTH * 1j]
    image = image * (1 - 0.22 * (rows**2 + columns**2) / 2)[..., None]
    image += random.normal(0, 2.5, (HEIGHT, WIDTH, 1))
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))
    for quality in range(92, 50, -1):
        picture.save(TARGET, quality=quality, optimize=True)
        if TARGET.stat().st_size <= BYTES_MAX:
            break
    size = TARGET.stat().st_size
    assert BYTES_MIN <= size, f"{size} bytes are too few"
    print(f"{TARGET}: {size} bytes, quality {quality}")


if __name__ == "__main__":
    main()
