"""The whole of `saerec train` on made-up ratings of MovieLens's shapes: seconds of each stage, and the peak memory.

    python tools/whole_job.py ml-1m ml-10m --folder /tmp/shapes

Each shape is written once as ratings.csv and movies.csv; a process of its own reads, trains, measures and saves it."""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from synthetic import SHAPES, synthetic_ratings

ENDED = re.compile(r"(.+?): ([\d.]+) s; ")


def written(shape: str, folder: Path) -> Path:
    "The folder with the two files of one shape."
    if (done := folder / shape / "movies.csv").exists(): return done.parent
    r = synthetic_ratings(shape)
    done.parent.mkdir(parents=True, exist_ok=True)
    ratings = {"userId": r.user + 1, "movieId": r.movie + 1, "rating": r.value}
    pd.DataFrame(ratings).to_csv(done.with_name("ratings.csv"), index=False)
    movies = {"movieId": r.movies.movie_id, "title": r.movies.title, "genres": r.movies.genres}
    pd.DataFrame(movies).to_csv(done, index=False)
    return done.parent


def whole_job(data: Path, out: Path, options: list[str]) -> dict[str, float]:
    "Seconds by stage of one training, and the gigabytes it needed at most."
    start, stages = time.perf_counter(), dict[str, float]()
    command = [sys.executable, "-m", "saerec", "train", "--data", str(data), "--out", str(out), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr or ():
        lines.append(line)
        print(line, end="", file=sys.stderr)
        if found := ENDED.match(line): stages[found[1]] = float(found[2])
    _, status, usage = os.wait4(process.pid, 0)
    if status: raise SystemExit(f"saerec train ended with {os.waitstatus_to_exitcode(status)}: {lines[-1]}")

    whole = time.perf_counter() - start
    own = {"reading, splitting, start and end": whole - sum(stages.values())}
    return own | stages | {"whole job, s": whole, "peak memory, GB": usage.ru_maxrss / 2**20}


def main() -> None:
    "Measure the shapes that were asked for, and print one table."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="+", choices=list(SHAPES))
    parser.add_argument("--folder", default=Path(tempfile.gettempdir()) / "saerec-shapes", type=Path)
    parser.add_argument("--option", action="append", default=[], help="of saerec train, such as --resume")
    args = parser.parse_args()
    found = {s: whole_job(written(s, args.folder), args.folder / f"{s}-model", args.option) for s in args.shapes}
    print(pd.DataFrame(found).round(1).fillna("").to_string())


if __name__ == "__main__":
    main()
