"""Lists of requests by which caches are compared, made anew from a seed: no log of a real CDN may be passed on.

A list is two arrays, the number of the object asked for and its bytes. Popularity is Zipf's, sizes are equal, lognormal (pages,
images) or Pareto's (downloads). What a miss costs depends on the object alone: `costs` says how.
"""

import numpy as np

PAGE = 4096
SLICE = 1 << 20
GIB = 1 << 30


def zipf(rng, alpha, objects, requests):
    """Requests of `objects` objects, independent of each other."""
    weights = np.arange(1, objects + 1, dtype=np.float64) ** -alpha
    ranks = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(requests))
    # The number says nothing of the popularity.
    return rng.permutation(objects)[np.minimum(ranks, objects - 1)]


def equal(rng, objects):
    return np.full(objects, PAGE, dtype=np.int64)


def lognormal(rng, objects):
    """Median 12 KiB, mean about 60 KiB, some of many MiB: pages and images."""
    return np.clip(rng.lognormal(np.log(12 * 1024), 1.8, objects), 100, 64 << 20).astype(np.int64)


def pareto(rng, objects):
    """A tail so heavy that a hundredth of the objects has most of the bytes: downloads."""
    return np.clip(2048 * (1 + rng.pareto(1.05, objects)), 100, 64 << 20).astype(np.int64)


def of_zipf(alpha, sizes):
    def make(rng, requests):
        objects = requests // 10
        return zipf(rng, alpha, objects, requests), sizes(rng, objects)
    return make


def scans(sizes):
    """A tenth of the time somebody reads through what nobody else asks for: a crawler, a backup."""
    def make(rng, requests):
        objects = requests // 10
        ids = zipf(rng, 0.9, objects, requests)
        length = requests // 50
        for number in range(5):
            start = (2 * number + 1) * requests // 10
            # The first three read something new, the others what the first two read.
            ids[start:start + length] = objects + (number % 3) * length + np.arange(length)
        return ids, sizes(rng, objects + 3 * length)
    return make


def once(sizes):
    """Every second request is for what is never asked for again."""
    def make(rng, requests):
        objects = requests // 10
        ids = zipf(rng, 0.9, objects, requests)
        alone = rng.random(requests) < 0.5
        count = int(alone.sum())
        ids[alone] = objects + np.arange(count)
        return ids, sizes(rng, objects + count)
    return make


def shifting(sizes):
    """Each twentieth of the list a tenth of the objects trade their popularity for that of others."""
    def make(rng, requests):
        objects = requests // 10
        ranks = zipf(rng, 0.9, objects, requests)
        names = np.arange(objects)
        ids = np.empty(requests, dtype=np.int64)
        for part in np.array_split(np.arange(requests), 20):
            ids[part] = names[ranks[part]]
            moved = rng.choice(objects, objects // 10, replace=False)
            names[moved] = names[rng.permutation(moved)]
        return ids, sizes(rng, objects)
    return make


def bursts(sizes):
    """A third of the requests are for news: asked for 5 to 50 times within a short while, then never again."""
    def make(rng, requests):
        objects = requests // 10
        ids = zipf(rng, 0.9, objects, requests)
        wanted, taken, news = requests // 3, 0, objects
        while taken < wanted:
            times = int(rng.integers(5, 50))
            start = int(rng.integers(0, requests))
            places = (start + np.cumsum(rng.integers(1, max(2, requests // 1000), times))) % requests
            ids[places] = news
            news, taken = news + 1, taken + times
        return ids, sizes(rng, news)
    return make


def site(rng, requests):
    """Pages, their images, and films that are watched slice by slice, most of them not to the end."""
    pages, images, films = requests // 20, requests // 10, max(8, requests // 2000)
    first_slice = pages + images
    lengths = np.clip(rng.lognormal(np.log(60), 0.8, films), 4, 600).astype(np.int64)
    starts = first_slice + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    page_of = iter(zipf(rng, 0.8, pages, requests))
    image_of = iter(zipf(rng, 0.9, images, requests))
    film_of = iter(zipf(rng, 0.9, films, requests))
    watched = []
    ids = np.empty(requests, dtype=np.int64)
    for place, which in enumerate(rng.random(requests)):
        if which < 0.35:
            ids[place] = next(page_of)
        elif which < 0.75:
            ids[place] = pages + next(image_of)
        else:
            if len(watched) < 8 or which < 0.76:
                film = next(film_of)
                watched.append([starts[film], starts[film] + lengths[film]])
            turn = place % len(watched)
            ids[place] = watched[turn][0]
            watched[turn][0] += 1
            if watched[turn][0] == watched[turn][1] or which > 0.995:
                watched.pop(turn)
    sizes = np.concatenate([
        np.clip(rng.lognormal(np.log(8 * 1024), 0.8, pages), 300, 1 << 20).astype(np.int64),
        lognormal(rng, images),
        np.full(int(lengths.sum()), SLICE, dtype=np.int64),
    ])
    return ids, sizes


LISTS = {
    "zipf 0.6 equal": of_zipf(0.6, equal),
    "zipf 0.8 equal": of_zipf(0.8, equal),
    "zipf 1.0 equal": of_zipf(1.0, equal),
    "zipf 1.2 equal": of_zipf(1.2, equal),
    "zipf 0.7 lognormal": of_zipf(0.7, lognormal),
    "zipf 0.9 lognormal": of_zipf(0.9, lognormal),
    "zipf 1.1 lognormal": of_zipf(1.1, lognormal),
    "zipf 0.9 pareto": of_zipf(0.9, pareto),
    "scans equal": scans(equal),
    "scans lognormal": scans(lognormal),
    "once equal": once(equal),
    "once lognormal": once(lognormal),
    "shifting equal": shifting(equal),
    "shifting lognormal": shifting(lognormal),
    "bursts equal": bursts(equal),
    "bursts lognormal": bursts(lognormal),
    "site": site,
}


def make(name, requests, seed):
    """The list `name`: for each request the number of its object, and its bytes."""
    rng = np.random.default_rng([seed, sorted(LISTS).index(name)])
    ids, sizes = LISTS[name](rng, requests)
    return ids.astype(np.int64), sizes[ids].astype(np.int64)


def thirds(ids, salt):
    """0, 1 or 2 for each object, by chance: half of them, three tenths, two tenths."""
    mixed = (ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(salt)
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.searchsorted([0.5, 0.8], (mixed >> np.uint64(40)) / float(1 << 24))


def costs(ids, sizes):
    """What a miss of each request costs: by name of the model, what the cache is told, and what is counted."""
    dear, far = thirds(ids, 1), thirds(ids, 2)
    ones = np.ones(len(ids))
    # The cheapest provider takes a cent for a GB, the dearest a dollar; the nearest answers in 10 ms, the farthest in a second.
    dollars = sizes / GIB * 0.01 * 10.0 ** dear + 4e-7
    seconds = 0.01 * 10.0 ** far + sizes / 50e6
    # A second is worth what makes both weigh alike over the list.
    value = dollars.sum() / seconds.sum()
    return {
        "equal": (ones, {"misses": ones}),
        "bytes": (sizes.astype(float), {"bytes": sizes.astype(float)}),
        "1:10:100": (10.0 ** dear, {"cost": 10.0 ** dear}),
        "money": (dollars, {"dollars": dollars}),
        "time": (seconds, {"seconds": seconds}),
        "both": (dollars + value * seconds, {"dollars": dollars, "seconds": seconds, "both": dollars + value * seconds}),
    }
