"""The same seed gives the same weights, bit for bit, on one machine with one number of threads.

With another number sums may be added in another order, and what comes out stays within the tolerances below.
(Batches are cut out by the process that trains, so there are no loader workers whose number could matter; that a
training that was stopped and continued ends with the same weights is in test_survival.py.)"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from saerec.data import load_movielens, split_users, to_batch
from saerec.train import fit, make_model

SCORES, METRIC = 1e-3, 5e-3  # largest difference of a score, relative to the largest score; of validation NDCG@100


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def trained(
    n_threads: int, objective: str = "ranking", seed: int = 0
) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[float]]:
    "Weights, scores of the validation people, and the metric of each epoch, of a short training on some threads."
    torch.set_num_threads(n_threads)
    likes = load_movielens().likes()
    split = split_users(likes.only_movies(np.flatnonzero(np.bincount(likes.movie) >= 10)), seed=0)
    model = make_model(objective, split.train.n_movies, hidden=(128, 32), dropout=0.2, seed=seed)
    recorder = fit(model, split, objective, epochs=3, batch_size=128, patience=3, seed=seed, say=None)
    shown = to_batch(split.valid.fold_in, split.valid.users)
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        model.scores(shown),
        recorder.frame[recorder.metric].tolist(),
    )


@pytest.mark.parametrize("objective", ["ranking", pytest.param("multinomial", marks=pytest.mark.slow)])
def test_threads(objective: str, note: Callable[[str], None]) -> None:
    one, again, other = trained(1, objective), trained(1, objective), trained(2, objective)
    assert (
        all(torch.equal(a, b) for a, b in zip(one[0].values(), again[0].values(), strict=True)) and one[2] == again[2]
    )
    assert not torch.equal(one[1], trained(1, objective, seed=1)[1]), "another seed is another training"
    apart = float((one[1] - other[1]).abs().max() / one[1].abs().max())
    metric = max(abs(a - b) for a, b in zip(one[2], other[2], strict=True))
    note(
        f"{objective}, 1 and 2 threads, same seed: scores differ by at most {apart:.1e} of the largest, "
        f"validation NDCG@100 by {metric:.1e}"
    )
    assert apart < SCORES and metric < METRIC


@pytest.mark.slow
def test_four_threads() -> None:
    one, four = trained(1), trained(4)
    assert float((one[1] - four[1]).abs().max() / one[1].abs().max()) < SCORES
    assert max(abs(a - b) for a, b in zip(one[2], four[2], strict=True)) < METRIC
