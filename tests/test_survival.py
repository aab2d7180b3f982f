"""A training that is killed (SIGKILL) at any moment, also while it writes its checkpoint, goes on to the weights that it would have had.

Three kills in the default run, fifty with --slow."""
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saerec.data import load_movielens, split_users
from saerec.train import fit, make_model

EPOCHS = 8
START = multiprocessing.get_context("forkserver")
START.set_forkserver_preload(["saerec.train"])


def work(folder: str, started, finished) -> None:
    "One training from wherever its checkpoint is, in a process of its own."
    torch.set_num_threads(1)
    split = split_users(load_movielens().likes(), seed=0)
    model = make_model("ranking", split.train.n_movies, hidden=(64, 16), dropout=0.2, seed=0)
    started.set()
    fit(model, split, "ranking", epochs=EPOCHS, batch_size=128, patience=EPOCHS, say=None, checkpoint=f"{folder}/training.safetensors")
    save_file(model.state_dict(), f"{folder}/weights.safetensors")
    finished.set()


def run(folder: Path, kill_after: float | None = None) -> float:  # seconds that it trained
    "Start a training, and kill it after some seconds or wait for its end."
    started, finished = START.Event(), START.Event()
    p = START.Process(target=work, args=(str(folder), started, finished))
    p.start()
    assert started.wait(120), "the training did not begin"
    begin = time.perf_counter()
    if kill_after is None: assert finished.wait(300), "the training did not end"
    elif not finished.wait(kill_after): os.kill(p.pid or 0, signal.SIGKILL)
    seconds = time.perf_counter() - begin
    p.join(60)
    assert kill_after is not None or p.exitcode == 0
    return seconds


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments(kills: int, tmp_path: Path, note) -> None:
    rng, done, half, rounds = random.Random(0), 0, 0, 0
    (tmp_path / "whole").mkdir()
    seconds = run(tmp_path / "whole")
    wanted = load_file(tmp_path / "whole" / "weights.safetensors")
    while done < kills:
        folder = tmp_path / f"round {rounds}"
        folder.mkdir()
        for _ in range(3):
            run(folder, rng.uniform(0, 0.6 * seconds))
            done += not (folder / "weights.safetensors").exists()
            half += any(folder.glob(".*.new"))
        run(folder)
        found = load_file(folder / "weights.safetensors")
        assert all(torch.equal(wanted[k], found[k]) for k in wanted), f"round {rounds} ended with other weights"
        rounds += 1
    note(f"{done} kills in {rounds} trainings of {seconds:.1f} s, {half} of them while a checkpoint was written; all ended with the same weights")
