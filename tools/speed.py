"""Seconds of an epoch and of a ranking against the number of ratings, beside the same network with scores written out.

python tools/speed.py [--shapes ml-1m ml-32m] [--dense ml-1m]

The story nbs/stories/scale.ipynb tells what it finds. Every measurement has a process, and so a peak of memory, of its
own."""
import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from synthetic import SHAPES, synthetic_ratings

from saerec.data import Batch, HeldOut, InputError, Ratings, open_csr, write_csr
from saerec.evaluate import rank_metrics
from saerec.model import Factored, StackedAutoencoder, catalogue_mse, gram_error, gram_is_cheaper
from saerec.train import OBJECTIVES, Rows, Training, make_model
from saerec.train.objectives import batch_size_for

# --- one batch, both ways ---


class WrittenOut(StackedAutoencoder):
    "The same network, whose scores are always written out: that it has a `forward` of its own makes training do so."

    def forward(self, batch: Batch, movies: Tensor | None = None) -> Tensor:
        return super().forward(batch, movies)


def random_factors(n_rows: int, n_movies: int, width: int, per_row: int = 80) -> tuple[list[Tensor], Batch]:
    "Code, table and bias with gradients, and a batch of `per_row` ratings for each person, popular movies more often."
    rng = torch.Generator().manual_seed(0)
    shapes = (n_rows, width), (n_movies, width), (n_movies,)
    factors = [torch.randn(*shape, generator=rng).mul_(0.05).requires_grad_() for shape in shapes]

    popular = torch.arange(1, n_movies + 1).float() ** -0.9
    rows = [torch.multinomial(popular, per_row, generator=rng).sort().values for _ in range(min(n_rows, 64))]
    movies = torch.stack(rows).repeat(math.ceil(n_rows / 64), 1)[:n_rows].flatten()
    users = torch.arange(n_rows).repeat_interleave(per_row)
    return factors, Batch.from_cells(users, movies, torch.ones(len(movies)), (n_rows, n_movies))


def seconds_both_ways(n_rows: int, n_movies: int, width: int, repeats: int = 3) -> dict[str, float]:
    "Seconds for loss and gradients of one batch, in Gram form and written out; the fastest of the repeats counts."
    (code, table, bias), batch = random_factors(n_rows, n_movies, width)

    def gram() -> Tensor:
        return gram_error(Factored(code, table, bias), batch)

    def dense() -> Tensor:
        return catalogue_mse(Factored(code, table, bias).dense(), batch)

    found = {"gram": math.inf, "dense": math.inf}
    for _ in range(repeats + 1):
        for name, loss in (("gram", gram), ("dense", dense)):
            start = time.perf_counter()
            torch.autograd.grad(loss(), (code, table, bias))
            found[name] = min(found[name], time.perf_counter() - start)
    return found


def ways_map(
    rows: Sequence[int] = (32, 128, 512, 1024, 4096),  # people in a batch
    movies: Sequence[int] = (3_706, 26_744, 84_432),  # sizes of the catalogue
    widths: Sequence[int] = (64, 256, 800),  # of the code
    most: int = 120_000_000,  # scores that a dense batch may have here
) -> pd.DataFrame:  # a row for each combination
    "How many times faster the Gram form is, and whether the rule of `gram_is_cheaper` takes the faster way."
    found = []
    for m, h, b in ((m, h, b) for m in movies for h in widths for b in rows if m * b <= most):
        s = seconds_both_ways(b, m, h)
        taken = "gram" if gram_is_cheaper(b, m, h, 80 * b) else "dense"
        found.append({"movies": m, "width": h, "people": b, "ratio": s["dense"] / s["gram"],
                      "taken": taken, "loss by the rule": s[taken] / min(s.values())})
    return pd.DataFrame(found)


# --- an epoch and a ranking ---

GROUPS = {  # torch's operators, by what they are for
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmv_", "aten::dot"),
    "sparse products at the rated cells": (
        "aten::sparse_sampled_addmm", "aten::to_sparse_csr", "aten::addmm_", "aten::index", "aten::index_add_",
        "aten::sort"),
    "first layer": (
        "aten::_embedding_bag", "aten::_embedding_bag_dense_backward", "aten::tanh", "aten::tanh_backward",
        "aten::index_select"),
    "optimiser": ("aten::_fused_adamw_", "Optimizer.zero_grad#AdamW.zero_grad"),
}


def steps(
    model: StackedAutoencoder, rows: Rows, size: int, device: str = "cpu",
) -> tuple[Training, Sequence[Tensor]]:
    "A training of the ranking objective, and the users of each batch of an epoch."
    training = Training(model.train(), rows, OBJECTIVES["ranking"].changed(batch_size=size), device=device)
    order = torch.randperm(len(training.users), generator=training.rng)
    return training, training.users[order].split(size)


def run_step(training: Training, users: torch.Tensor) -> float:
    "One step of the loop on these users, without the account that `fit` keeps; its loss."
    loss = training.compute_loss(*training.my_part(users))
    training.optimizer.zero_grad()
    (loss * training.scale).backward()
    training.optimizer.step()
    return loss.item()  # which waits for a GPU


def epoch_cost(
    rows: Rows,
    way: str = "saerec",  # or "dense": scores written out
    n_steps: int = 3,  # batches timed, after one that is not
    batch_size: int | None = None,  # None: `batch_size_for` these rows
    device: str = "cpu",
    **options: Any,  # of `make_model`
) -> dict[str, Any]:
    "Seconds of an epoch of the default ranking network: the mean of some of its batches times their number."
    model, size = make_model("ranking", rows.n_movies, **options), batch_size or batch_size_for(len(rows))
    if way == "dense":  # of more scores than 1 GB it would hold several copies
        model.__class__, size = WrittenOut, min(size, max(32, 2**28 // rows.n_movies))

    (training, parts), seconds, loss = steps(model, rows, size, device), [], math.nan
    for part in parts[:n_steps + 1]:
        start = time.perf_counter()
        loss = run_step(training, part)
        seconds.append(time.perf_counter() - start)

    timed = seconds[1:] or seconds
    step = float(np.mean(timed))
    return {"batch": size, "batches": len(parts), "timed": len(timed), "seconds a batch": step,
            "epoch seconds": step * len(parts), "loss": loss}


def step_profile(rows: Rows, **options: Any) -> dict[str, float]:
    "Shares of the time of one training step, by the profiler's account of torch's operators; the first is not counted."
    training, parts = steps(make_model("ranking", rows.n_movies, **options), rows, batch_size_for(len(rows)))
    run_step(training, parts[0])
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as p:
        run_step(training, parts[1])

    own = {o.key: o.self_cpu_time_total for o in p.key_averages()}
    found = {name: sum(own.get(k, 0.0) for k in keys) / sum(own.values()) for name, keys in GROUPS.items()}
    return found | {"the rest": 1 - sum(found.values())}


def product_limit(n: int = 4096, device: str = "cpu") -> float:
    "The machine's best speed in a float32 matrix product of n x n, in operations a second."
    (a, b), best = torch.randn(2, n, n, device=device), math.inf
    for _ in range(3):
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # which waits for a GPU
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def last_held_out(b: Batch) -> HeldOut:
    "The last rating of each row is to be found, the others are shown."
    users = pd.DataFrame({"user_id": np.arange(len(b))})
    movies = pd.DataFrame({"movie_id": np.arange(b.n_movies), "title": "", "year": None, "genres": ""})
    r = Ratings(b.rows.numpy(), b.movies.numpy(), np.ones(len(b.movies)), users, movies)
    last = np.diff(r.user, append=-1) != 0
    return HeldOut(r.select(~last), r.select(~last), r.select(last))


def ranking_cost(
    rows: Rows, n_users: int = 2000, device: str = "cpu", product: int = 4096, **options: Any,
) -> dict[str, float]:
    "Seconds of `rank_metrics` for some people, and how near that is to the matrix product alone."
    model = make_model("ranking", rows.n_movies, **options)
    torch.nn.init.normal_(model.decoder, std=0.05)
    model.to(device)
    held = last_held_out(rows.take(torch.arange(min(n_users, len(rows)))))
    rank_metrics(model, HeldOut(held.fold_in, held.seen, held.target.select(np.arange(100))))  # once to warm up

    start = time.perf_counter()
    ranked = rank_metrics(model, held, ["NDCG@100"])
    seconds = time.perf_counter() - start
    limit, speed = product_limit(product, device), 2 * len(ranked) * model.decoder_table.numel() / seconds
    return {"people": len(ranked), "seconds": seconds, "limit": limit, "share of the limit": speed / limit}


# --- all of it, each in a process of its own ---


def measure_here(folder: str | Path, what: str, n_steps: int) -> dict[str, Any]:
    "One measurement on mapped rows in this process, and the peak of its memory in GB."
    rows = open_csr(folder)
    if what == "ranking":
        found: dict[str, Any] = ranking_cost(rows)
    else:
        found = step_profile(rows) if what == "profile" else epoch_cost(rows, what, n_steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    sizes = {"users": len(rows), "movies": rows.n_movies, "ratings": int(rows.counts.sum())}
    return {"what": what, **sizes, "peak GB": peak} | found


def measure_apart(folder: str | Path, what: str, n_steps: int) -> dict[str, Any]:
    "The same in a process of its own. Raises `InputError` if that ends without an answer, as when memory runs out."
    command = [sys.executable, __file__, "--folder", str(folder), "--what", what, "--steps", str(n_steps)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.returncode: return json.loads(done.stdout.splitlines()[-1])
    why = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "killed, probably for want of memory"
    raise InputError(f"{what} on {Path(folder).name}: the process ended with {done.returncode} and no figure ({why}).")


def make_rows(shape: str | int, folder: str | Path) -> Path:
    "Made-up ratings of an edition's shape, or of some number, as mapped rows in that folder."
    csr = Path(folder) / f"{shape}.safetensors"
    return csr if csr.exists() else write_csr(synthetic_ratings(shape), csr)


def one_row(csr: Path, shape: str | int, dense: bool, n_steps: int) -> dict[str, Any]:
    "Seconds, memory and speed of ranking at one shape."
    ours, ranking = measure_apart(csr, "saerec", n_steps), measure_apart(csr, "ranking", 0)
    told = ("ratings", "users", "movies", "batch", "epoch seconds", "peak GB")
    row = {"shape": shape, **{k: ours[k] for k in told}, "ranking / limit": ranking["share of the limit"]}
    if not dense: return row
    theirs = measure_apart(csr, "dense", 1)
    return row | {
        "dense epoch seconds": theirs["epoch seconds"],
        "dense batches timed": f"{theirs['timed']} of {theirs['batches']}",
        "dense / saerec": theirs["epoch seconds"] / ours["epoch seconds"],
        "dense peak GB": theirs["peak GB"]}


def scale_table(
    shapes: Sequence[str | int] = ("ml-1m", 4_000_000, "ml-10m", "ml-20m", "ml-32m"),  # editions, or numbers of ratings
    dense: Sequence[str | int] = ("ml-1m", "ml-20m", "ml-32m"),  # where the rival is measured too
    n_steps: int = 3,  # batches timed; of the dense rival, one
    folder: str | Path | None = None,  # keeps the files; None: a temporary one
) -> pd.DataFrame:  # a row a shape
    "Seconds of an epoch, ratio, memory and speed of ranking, at each shape."
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for shape in shapes:
            found.append(one_row(make_rows(shape, folder or temporary), shape, shape in dense, n_steps))
            told = (f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in found[-1].items())
            print(*told, sep="  ", file=sys.stderr)
    return pd.DataFrame(found).set_index("shape")


def growth(table: pd.DataFrame) -> float:
    "The slope of the logarithm of epoch seconds against that of the ratings: 1 is proportional."
    return float(np.polyfit(np.log(table.ratings), np.log(table["epoch seconds"]), 1)[0])


def command_line() -> argparse.Namespace:
    "The options."
    p = argparse.ArgumentParser(
        description="Seconds of an epoch against ratings, beside the same network with scores written out.")
    p.add_argument("--shapes", nargs="+", default=["ml-1m", "4000000", "ml-10m", "ml-20m", "ml-32m"],
                   help=f"{', '.join(SHAPES)}, or numbers of ratings (default: %(default)s)")
    p.add_argument("--dense", nargs="*", default=["ml-1m", "ml-20m", "ml-32m"],
                   help="shapes at which the dense rival is timed too")
    p.add_argument("--steps", type=int, default=3, help="batches to time (default: 3)")
    p.add_argument("--folder",
                   help="where the made-up ratings are written and kept; with --what: the mapped rows to measure")
    p.add_argument("--what", choices=["saerec", "dense", "ranking", "profile"],
                   help="one measurement on --folder, as JSON")
    return p.parse_args()


def main() -> int:
    a = command_line()
    try:
        if a.what:
            print(json.dumps(measure_here(a.folder or "", a.what, a.steps)))
            return 0
        shapes, dense = ([int(s) if s.isdigit() else s for s in named] for named in (a.shapes, a.dense))
        table = scale_table(shapes, dense, a.steps, a.folder)
        print(table.round(2).to_string())
        if len(table) > 1: print(f"slope of log epoch seconds against log ratings: {growth(table):.2f}")
        return 0
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__": sys.exit(main())
