"""Many people at the page at once: python tools/load.py http://127.0.0.1:8000/ --clients 50 --requests 10000

Each types a title, rates what is found, looks at the list, asks why, and asks the API, a pause before each request.
The last line says how long the answers took; any answer but 200 ends it. The server may run on another machine.
"""
import argparse
import asyncio
import json
import random
import time
from collections import defaultdict
from urllib.parse import quote, urlsplit

WORDS = ["star wars", "toy story", "the godfather", "matrix", "fargo", "pulp fiction", "alien", "casablanca", "heat"]


class Client:
    "One connection that stays open; the seconds of each answer by kind."
    def __init__(self, address: str, pause: float, seed: int):
        self.address, self.pause, self.rng = urlsplit(address), pause, random.Random(seed)
        self.seconds: list[tuple[str, float]] = []

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(self.address.hostname, self.address.port or 80)

    async def get(self, kind: str, path: str) -> bytes:
        "The body of an answer, after a pause of half to one and a half times the usual."
        await asyncio.sleep(self.pause * self.rng.uniform(0.5, 1.5))
        start = time.perf_counter()
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: {self.address.netloc}\r\n\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        length = next(int(f.partition(":")[2]) for f in fields if f.lower().startswith("content-length:"))
        body = await self.reader.readexactly(length)
        self.seconds.append((kind, time.perf_counter() - start))
        if " 200 " not in status: raise SystemExit(f"{path}: {status} {body[:200]!r}")
        return body

    async def round(self, ratings: dict[str, int]) -> None:
        "Type a title letter by letter, rate one that is found, look at the list and its first reason, ask the API."
        def text() -> str: return "_".join(f"{movie}-{v}" for movie, v in ratings.items())
        word, r = self.rng.choice(WORDS), text()
        for k in range(3, len(word) + 1, 2): await self.get("search", f"/parts?only=found&q={quote(word[:k])}&r={r}")

        found = json.loads(await self.get("api", f"/api/search?q={quote(word)}&n=6"))["movies"]
        movie, stars = self.rng.choice(found)["movie"], self.rng.randint(1, 5)
        await self.get("rate", f"/parts?r={r}&rate={movie}-{stars}&q={quote(word)}")
        ratings[movie] = stars

        top = json.loads(await self.get("list", f"/api/recommend?n=10&r={text()}"))["movies"]
        await self.get("why", f"/parts?r={text()}&why={top[0]['movie']}")
        await self.get("api", "/api/similar?movie=Toy%20Story")  # one that many like

    async def visit(self, requests: int) -> list[tuple[str, float]]:
        "One person, until so many requests are answered."
        await self.connect()
        await self.get("page", "/")
        ratings: dict[str, int] = {}
        while len(self.seconds) < requests:
            if len(ratings) >= 25: ratings.clear()
            await self.round(ratings)
        self.writer.close()
        return self.seconds[:requests]


async def load(address: str, clients: int, requests: int, pause: float) -> dict[str, list[float]]:
    "Seconds of each answer, sorted, by kind, and of all."
    people = [Client(address, pause, seed).visit(requests // clients) for seed in range(clients)]
    kinds: dict[str, list[float]] = defaultdict(list)
    for seconds in await asyncio.gather(*people):
        for kind, s in seconds: kinds[kind].append(s); kinds["all"].append(s)
    return {kind: sorted(v) for kind, v in kinds.items()}


def told(kinds: dict[str, list[float]]) -> str:
    "Quantiles in milliseconds."
    def at(v: list[float], p: float) -> str: return f"{1e3 * v[min(len(v) - 1, int(p * len(v)))]:.0f}"
    every = kinds["all"]
    quantiles = ", ".join(f"p{100 * p:.0f} {at(every, p)} ms" for p in (0.5, 0.95, 0.99))
    by_kind = ", ".join(f"{k} {at(v, 0.95)}" for k, v in kinds.items() if k != "all")
    return f"{len(every):,} requests, no error: {quantiles}; p95 by kind: {by_kind}"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("address")
    p.add_argument("--clients", type=int, default=50)
    p.add_argument("--requests", type=int, default=10_000)
    p.add_argument("--pause", type=float, default=0.5, help="seconds of thought before each request")
    args = p.parse_args()
    start = time.perf_counter()
    kinds = asyncio.run(load(args.address, args.clients, args.requests, args.pause))
    print(f"{args.clients} clients, pause {args.pause} s, {time.perf_counter() - start:.0f} s: {told(kinds)}")


if __name__ == "__main__": main()
