"Objects that a user brings in place of those of saerec: each works where its kind is taken."
from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from saerec.data import (
    Batch, HeldOut, InputError, Ratings, Split, leave_one_out, load_movielens, split_pairs, split_parts, split_users,
)
from saerec.evaluate import EvaluationProtocol, Popularity, Scorer, evaluate, predict_cells
from saerec.model import Network
from saerec.train import OBJECTIVES, Objective, Settings, fit, make_model, settings_for, trainer


@pytest.fixture(scope="module")
def likes() -> Ratings:
    return load_movielens().likes()


def test_own_metric(likes: Ratings) -> None:
    "A metric is a function of hits and numbers of targets, and gets a column of its name and an interval."
    def first_place(hit: torch.Tensor, n: torch.Tensor) -> torch.Tensor: return hit[:, 0]

    split = split_users(likes, seed=0)
    models = {"Popularity": Popularity().fit(split.train), "Least liked": Popularity().fit(split.train)}
    models["Least liked"].counts *= -1
    found = evaluate(models, split, part="valid", metrics=["NDCG@10", first_place])
    assert list(found.table) == ["NDCG@10", "first_place"]
    assert 0.05 < found.loc["Popularity", "first_place"] < 1 and found.loc["Least liked", "first_place"] == 0
    difference, = found.differences(metrics=["first_place"], resamples=500).itertuples()
    assert difference.result == "better" and difference.difference == found.loc["Popularity", "first_place"]


def test_own_metric_of_a_wrong_name_opens_no_test(likes: Ratings) -> None:
    split = split_users(likes, seed=0)
    with pytest.raises(InputError, match="no metric 'Luck@10'"):
        evaluate(Popularity().fit(split.train), split, metrics=["Luck@10"])
    assert split.finals == 0


def test_own_split(likes: Ratings) -> None:
    "The last like of each user by time for the test, the one before for validation, by a label for each rating."
    liked = likes.select(likes.value > 0)
    order = np.lexsort((np.arange(len(liked)), liked.time, liked.user))
    counts = np.bincount(liked.user, minlength=liked.n_users)
    from_end = np.empty(len(liked), np.int64)
    from_end[order] = np.concatenate([np.arange(n)[::-1] for n in counts])

    enough = counts[liked.user] >= 3
    labels = np.where(enough & (from_end == 0), "test", np.where(enough & (from_end == 1), "valid", "train"))
    split = split_parts(liked, labels, "the last like")
    assert split.fingerprint() == leave_one_out(liked).fingerprint()
    found = evaluate(Popularity().fit(split.train), split, metrics=["NDCG@10", "recall_all@20"])
    assert found.about["protocol"] == "the last like" and split.finals == 1
    n = int((labels == "test").sum())
    assert found.about["answers"] == [(n, n)] and 0.02 < found.table["recall_all@20"].item() < 0.3


def test_own_protocol(likes: Ratings) -> None:
    "A protocol object stands where a name does, on data of one's own as well, beside the baselines of its kind."
    def split(stars: Ratings, seed: int) -> Split: return split_users(stars.likes(4.5), 40, 40, seed=seed)

    own = EvaluationProtocol("high marks", "bundled", "ranking", (5,), split, "4.5 or more", metrics=("Recall@20",))
    found = evaluate({"Mine": Popularity()}, own)
    assert str(own) == "high marks: ranking on bundled, seeds 5; Recall@20; 4.5 or more."
    assert list(found.index) == ["Mine", "Popularity", "EASE", "EDLAE"] and list(found.table) == ["Recall@20"]
    assert found.about["protocol"] == "high marks" and found.loc["Mine"].equals(found.loc["Popularity"])

    stars = load_movielens()
    half = stars.select(stars.user % 2 == 0)
    fewer = evaluate({"Mine": Popularity()}, own, ratings=half, baselines=False)
    assert fewer.about["fingerprint"] != found.about["fingerprint"]


class Linear(Network):
    "One vector a movie: a user is the mean of those that he or she likes."
    def __init__(self, n_movies: int, width: int = 16):
        super().__init__(n_movies, width=width)
        self.table = torch.nn.Parameter(0.1 * torch.randn(n_movies, width, generator=torch.Generator().manual_seed(0)))

    def forward(self, batch: Batch) -> torch.Tensor:
        liked = batch.where(batch.values > 0)
        return liked.csr() @ self.table / liked.counts.clamp(min=1)[:, None] @ self.table.T


@pytest.mark.parametrize("objective", ["ranking", "multinomial", "likes"])
def test_own_network(likes: Ratings, objective: str) -> None:
    "A network with nothing but `forward` learns for each objective, and is measured like any other."
    likes = likes.only_movies(np.flatnonzero(np.bincount(likes.movie, minlength=likes.n_movies) >= 20))
    split = split_pairs(likes, seed=0) if objective == "likes" else split_users(likes, seed=0)
    model = Linear(split.train.n_movies)
    recorder = fit(model, split, objective, epochs=3, lr=0.01, say=None)
    assert recorder.frame.train_loss.iloc[-1] < recorder.frame.train_loss.iloc[0]
    found = evaluate(model, split, part="valid")
    if objective == "likes": assert 0.5 < found.loc["Linear", "AUC"] < 1
    else: assert found.loc["Linear", "NDCG@100"] == pytest.approx(recorder.best)


def test_own_network_goes_on_from_a_checkpoint(likes: Ratings, tmp_path: Path) -> None:
    "Stopped after two of four epochs and continued it has the same weights, bit for bit, as without a stop."
    likes = likes.only_movies(np.flatnonzero(np.bincount(likes.movie, minlength=likes.n_movies) >= 20))
    split = split_users(likes, seed=0)
    options = dict(epochs=4, lr=0.01, say=None)
    whole, stopped, resumed = (Linear(split.train.n_movies) for _ in range(3))
    fit(whole, split, **options)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, split, **options, checkpoint=tmp_path / "c", objective=_stops_after(2))
    recorder = fit(resumed, split, **options, checkpoint=tmp_path / "c")
    assert len(recorder.rows) == 4 and torch.equal(resumed.table, whole.table)
    assert not torch.equal(stopped.table, whole.table)


def _stops_after(epochs: int) -> Objective:
    "Ranking, until the validation of an epoch is interrupted."
    usual, asked = OBJECTIVES["ranking"], itertools.count(1)

    def validate(model: Scorer, held: HeldOut) -> dict[str, float]:
        if next(asked) > epochs: raise KeyboardInterrupt
        return usual.validate(model, held)

    return replace(usual, validate=validate)


class Silent(Network):
    "A network with a fault: one score too few."
    def __init__(self, n_movies: int):
        super().__init__(n_movies)
        self.b = torch.nn.Parameter(torch.zeros(n_movies - 1))

    def forward(self, batch: Batch) -> torch.Tensor: return self.b.expand(len(batch), -1)


def test_faulty_networks_are_said_before_training(likes: Ratings) -> None:
    split = split_users(likes, seed=0)
    n = split.train.n_movies
    with pytest.raises(InputError, match=r"Silent.scores gave \[2, \d+\] for 2 users and \d+ movies"):
        fit(Silent(n), split)
    with pytest.raises(InputError, match="Linear is no saerec.model.Network; subclass that"):
        fit(torch.nn.Linear(n, n), split)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Network has no parameters"):
        fit(Network(n), split)


class Known:
    "A scorer in numpy: how many ratings each movie has."
    def fit(self, train: Ratings) -> Known:
        self.n = np.bincount(train.movie, minlength=train.n_movies)
        return self

    def scores(self, batch: Batch) -> np.ndarray: return np.repeat(self.n[None], len(batch), 0)


class Mean(Known):
    "The same, of stars: it says that it predicts them."
    predicts_stars = True

    def scores(self, batch: Batch) -> np.ndarray: return np.full((len(batch), batch.n_movies), 3.5)


def test_own_scorer(likes: Ratings) -> None:
    "A scorer in numpy stands beside those of torch; an RMSE has only one that says it predicts stars."
    split = split_users(likes, seed=0)
    found = evaluate({"Known": Known().fit(split.train), "Popularity": Popularity().fit(split.train)}, split)
    assert found.loc["Known", "NDCG@10"] == pytest.approx(found.loc["Popularity", "NDCG@10"], abs=0.05)
    with pytest.raises(InputError, match=r"Known.scores failed .*; if it is not fitted yet, call fit"):
        evaluate(Known(), split, part="valid")

    stars = split_pairs(load_movielens(), seed=0)
    table = evaluate({"Known": Known().fit(stars.train), "Mean": Mean()}, stars, part="valid").table
    assert np.isnan(table.loc["Known", "RMSE"]) and 0.9 < table.loc["Mean", "RMSE"] < 1.2


def test_own_objective(likes: Ratings) -> None:
    "An objective of one's own: the absolute error, which chooses the epoch and stands beside baselines by itself."
    def loss(model: Network, batch: Batch, shown: Batch, visible: torch.Tensor, settings: Settings) -> torch.Tensor:
        return (model.at(shown, batch) - batch.values).abs().mean()

    def validate(model: Scorer, held: HeldOut) -> dict[str, float]:
        return {"valid_loss": float(np.abs(predict_cells(model, held) - held.target.value).mean())}

    likes = likes.only_movies(np.flatnonzero(np.bincount(likes.movie, minlength=likes.n_movies) >= 20))
    split = split_pairs(likes, seed=0)
    network = {"hidden": (32,), "centred": True}
    absolute = Objective(loss, validate, "valid_loss", Settings("absolute", epochs=4), network)
    said: list[str] = []
    recorder = fit(make_model(absolute, split.train.n_movies), split, absolute, say=said.append)
    assert recorder.frame.valid_loss.idxmin() == recorder.best_epoch and len(recorder.rows) == 4
    assert said[0].startswith("absolute: validation loss 0.") and "User + movie means" in said[0]
    assert settings_for(absolute, split.train) == {}
    assert evaluate(trainer(absolute)(split), split, part="valid").table.notna().all(axis=None)


def test_programs_of_the_page_are_short() -> None:
    "Each of the five programs has at most 15 lines, beside the imports that they share."
    page = Path(__file__).resolve().parents[1] / "nbs" / "howto" / "own_parts.ipynb"
    cells = ["".join(c["source"]) for c in json.loads(page.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    programs = ("class Linear", "def loss", "def first_place", "labels =", "class Neighbours")
    for begins in programs:
        (program,) = (t for t in cells if re.search(rf"^{begins}", t, re.M))
        lines = [o for o in program.splitlines() if o.strip() and not o.startswith("#|")]
        assert len(lines) <= 15, f"{begins}: {len(lines)} lines"
