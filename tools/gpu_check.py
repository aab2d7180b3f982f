"""Whether training on a GPU is the training on the CPU, and what an epoch and a ranking take there.

    python tools/gpu_check.py                                   # on a machine with CUDA, at most five minutes
    python tools/gpu_check.py --device cpu --shape 100000       # every line of it on a CPU

The figures on CUDA were not measured: this was written where no GPU was, and run on a CPU only.

Checks, on small made-up data with one seed; the exit code is 1 if one of them fails:
- losses of training and validation are the CPU's, for likes and for ranking, the latter in Gram form and written out.
  Order of users and masking are drawn on the CPU, so they are the same; dropout is drawn on the device, so it is off.
- a training whose first epoch was on one device goes on from its checkpoint on the other, as if it had not moved.
- the lists of one network are the same on both.

Figures, of which nothing is asked: seconds of an epoch of the default ranking network at the shape, beside the same
network with scores written out, and the speed of ranking beside that of a matrix product in full float32. Scores come
to the CPU before they are sorted, so a GPU waits for that."""
import argparse
import math
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed import epoch_cost, ranking_cost

from synthetic import SHAPES, shape_at, synthetic_ratings

from saerec.data import InputError, Ratings, Split
from saerec.data import split_pairs, split_users, to_batch
from saerec.evaluate import top_lists
from saerec.model import StackedAutoencoder, gram_is_cheaper
from saerec.train import Recorder, fit, make_model

TOLERANCE = 1e-3  # of a loss, as a share of the CPU's; on the CPU, gradients 1e-5 off change it by 1e-6
SAME_LISTS = 0.99  # share of the places of all lists: where scores are nearly equal, the order may differ
EPOCHS, HIDDEN = 3, (64, 16)

Check = tuple[str, float, str, bool]  # what, its value, what is asked of it, whether it is so


def small_split(objective: str, r: Ratings) -> Split:
    "Likes predict ratings of known users, ranking the likes of new ones."
    likes = r.likes()
    return split_pairs(likes) if objective == "likes" else split_users(likes, n_valid=50, n_test=50)


def trained(
    objective: str, split: Split, device: str, batch_size: int, **options: Any,  # of `fit`
) -> tuple[StackedAutoencoder, Recorder]:
    "A small network without dropout, trained on a device."
    model = make_model(objective, split.train.n_movies, hidden=HIDDEN, dropout=0.0)
    settings = dict(device=device, batch_size=batch_size, epochs=EPOCHS, say=None)
    return model, fit(model, split, objective, **settings, **options)


def difference(ours: Recorder, theirs: Recorder) -> float:
    "The largest difference of a loss in any epoch, as a share of theirs; infinite where one has other epochs."
    a, b = (o.frame[["train_loss", "valid_loss"]].dropna(axis=1).to_numpy() for o in (ours, theirs))
    return float((np.abs(a - b) / np.abs(b)).max()) if a.shape == b.shape else math.inf


def moved(objective: str, split: Split, devices: tuple[str, str], batch_size: int) -> Recorder:
    "One epoch on the first device, the others on the second."
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "training.safetensors"
        for device, stop_at in zip(devices, (1, EPOCHS), strict=True):
            _, recorder = trained(objective, split, device, batch_size, stop_at=stop_at, checkpoint=file)
    return recorder


def same_lists(model: StackedAutoencoder, split: Split, device: str) -> float:
    "The share of places that have the same movie on both devices."
    on_cpu, on_device = (top_lists(model.to(d), split.valid, 10) for d in ("cpu", device))
    return float((on_cpu == on_device).mean())


def checks(device: str, ratings: int) -> Iterator[Check]:
    "Every comparison of the device with the CPU."
    r, asked = synthetic_ratings(ratings), f"at most {TOLERANCE:g}"
    gram = gram_is_cheaper(256, r.n_movies, HIDDEN[0], 256 * len(r) // r.n_users)
    written_out = not gram_is_cheaper(32, r.n_movies, HIDDEN[0], 32 * len(r) // r.n_users)
    both = gram and written_out
    yield "batches of 256 take the Gram form, those of 32 do not", float(both), "1", both

    for objective, batch_size in (("ranking", 256), ("ranking", 32), ("likes", 128)):
        split, name = small_split(objective, r), f"{objective}, batches of {batch_size}"
        model, on_cpu = trained(objective, split, "cpu", batch_size)
        _, on_device = trained(objective, split, device, batch_size)
        apart = difference(on_device, on_cpu)
        yield f"{name}: losses, {device} against the CPU", apart, asked, apart <= TOLERANCE

        _, whole = trained(objective, split, "cpu", batch_size, stop_at=EPOCHS)
        for devices in (("cpu", device), (device, "cpu")):
            apart = difference(moved(objective, split, devices, batch_size), whole)
            yield f"{name}: losses, {' -> '.join(devices)} by a checkpoint", apart, asked, apart <= TOLERANCE

        if objective != "ranking": continue
        share = same_lists(model, split, device)
        yield f"{name}: same places in lists of 10", share, f"at least {SAME_LISTS:g}", share >= SAME_LISTS


def figures(device: str, shape: str | int) -> Iterator[tuple[str, float]]:
    "Seconds at the shape."
    rows, product = to_batch(synthetic_ratings(shape).likes()), 1024 if device == "cpu" else 8192
    seconds = dict[str, float]()
    for way, n_steps in (("saerec", 5), ("dense", 3)):
        seconds[way] = epoch_cost(rows, way, n_steps, device=device)["epoch seconds"]
        yield f"{shape}: seconds an epoch, {way}", seconds[way]
    yield f"{shape}: dense / saerec", seconds["dense"] / seconds["saerec"]

    found = ranking_cost(rows, device=device, product=product)
    yield f"{shape}: seconds to rank everything for {found['people']:,} users", found["seconds"]
    yield f"speed of a product of {product:,} x {product:,}, 10^12 operations a second", found["limit"] / 1e12
    yield "ranking, as a share of that speed", found["share of the limit"]
    if device != "cpu": yield "peak memory of the GPU, GB", torch.cuda.max_memory_allocated(device) / 1e9


def a_shape(text: str) -> str | int:
    "A name in `SHAPES`, or a number of ratings. Raises `InputError` for another."
    if text not in SHAPES and not text.isdigit():
        raise InputError(f"--shape {text}: it is one of {', '.join(SHAPES)}, or a number of ratings.")
    return text if text in SHAPES else shape_at(int(text)).ratings


def a_device(text: str) -> str:
    "The CPU, or a GPU that is there. Raises `InputError` for another."
    if not re.fullmatch(r"cpu|cuda(:[0-9])?", text): raise InputError(f"--device {text}: it is cpu, cuda, or cuda:1.")
    n = torch.cuda.device_count()
    if text == "cpu" or int(text.removeprefix("cuda").removeprefix(":") or 0) < n: return text
    raise InputError(f"--device {text}: torch finds {n} GPUs here; --device cpu --shape 100000 runs all on the CPU.")


def command_line(argv: Sequence[str] | None) -> argparse.Namespace:
    "The options."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu (default: %(default)s)")
    p.add_argument("--shape", default="ml-32m", help=f"of the figures: {', '.join(SHAPES)}, or a number of ratings")
    p.add_argument("--ratings", type=int, default=100_000, help="of the checks (default: %(default)s)")
    return p.parse_args(argv)


def run(a: argparse.Namespace) -> bool:  # whether all checks hold
    "Print the table, a row as soon as it is known. Raises `InputError` for a device or shape that is not there."
    device, shape = a_device(a.device), a_shape(a.shape)
    start, failed = time.perf_counter(), 0
    name = torch.cuda.get_device_name(device) if device != "cpu" else "CPU"
    print(f"{name}, torch {torch.__version__}\n\n{'':8}{'value':>12}  what", flush=True)

    for what, value, asked, holds in checks(device, a.ratings):
        print(f"{'ok' if holds else 'FAILED':8}{value:12.3g}  {what} ({asked})", flush=True)
        failed += not holds
    for what, value in figures(device, shape):
        print(f"{'':8}{value:12.4g}  {what}", flush=True)

    print(f"{'':8}{time.perf_counter() - start:12.4g}  seconds, all of it\n\n{failed} checks failed", flush=True)
    return not failed


def main(argv: Sequence[str] | None = None) -> int:  # exit code
    "The program."
    try: return 0 if run(command_line(argv)) else 1
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__": sys.exit(main())
