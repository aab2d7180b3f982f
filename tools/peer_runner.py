"""Trains one model on a split written by tools/peers.py and ranks for everybody.

    python tools/peer_runner.py NAME SPLIT.npz OUT

Runs in the environment of the library that NAME belongs to. SPLIT.npz holds training and validation cells only; the
targets of the test stay with tools/peers.py. Written are OUT.npz (`valid` and `test`: the 100 best movies of each user,
-1 where there are none; `valid` leaves out what is in training, `test` also what is in validation) and OUT.json
(seconds, memory, settings).
Both kinds of seconds are given: of the clock, and of the processor, which other programs on the machine disturb less.
"""
import importlib.metadata
import json
import os
import resource
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

LONGEST, ROWS = 100, 512
RIDGE = 250.0  # lambda of every EASE
Scores = Callable[[np.ndarray], np.ndarray]  # user codes -> float [B, n_movies]


class Times:
    "Seconds by name: [clock, processor], added up."
    def __init__(self) -> None: self.total: dict[str, list[float]] = {}
    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter(), time.process_time()
        try: yield
        finally:
            spent = self.total.setdefault(name, [0.0, 0.0])
            spent[0] += time.perf_counter() - start[0]
            spent[1] += time.process_time() - start[1]
    def get(self, name: str) -> list[float]: return list(self.total.get(name, [0.0, 0.0]))


class Data:
    "The cells as arrays of codes, and as rows."
    def __init__(self, path: str):
        with np.load(path) as f: self.cells = {k: f[k] for k in f.files}
        self.n_users, self.n_movies = (int(x) for x in self.cells["shape"])
        self.seed = int(self.cells["seed"])
        self.train, self.valid = self.rows("train"), self.rows("valid")
        self.known = (self.train + self.valid).tocsr()
    def rows(self, part: str) -> csr_matrix:
        u, m = self.cells[f"{part}_user"], self.cells[f"{part}_movie"]
        return csr_matrix((np.ones(len(u), np.float32), (u, m)), shape=(self.n_users, self.n_movies))


def rank(scores: Scores, data: Data, hidden: csr_matrix, k: int = LONGEST) -> np.ndarray:  # int32 [n_users, k]
    "The k best of the whole catalogue without the hidden cells, best first; equal scores in the order of their codes."
    top = np.full((data.n_users, k), -1, np.int32)
    for a in range(0, data.n_users, ROWS):
        users = np.arange(a, min(a + ROWS, data.n_users))
        s = np.array(scores(users), np.float32)
        if s.shape != (len(users), data.n_movies) or np.isnan(s).any():
            raise ValueError(f"scores of the shape {s.shape}, {int(np.isnan(s).sum())} of them no number")

        here = hidden[users].tocoo()
        s[here.row, here.col] = -np.inf

        best = np.sort(np.argpartition(-s, k - 1, axis=1)[:, :k], axis=1)
        value = np.take_along_axis(s, best, 1)
        order = np.argsort(-value, axis=1, kind="stable")
        value, best = (np.take_along_axis(x, order, 1) for x in (value, best))
        top[users] = np.where(value > -np.inf, best, -1)
    return top


def spread(scores: np.ndarray, columns: np.ndarray, n_movies: int) -> np.ndarray:
    "Scores of a library's own columns at the codes of saerec; a movie that the library has never seen gets no score."
    out = np.full((len(scores), n_movies), -np.inf, np.float32)
    out[:, columns] = scores
    return out


# --- saerec ---

def split_of(data: Data):
    "The split as saerec knows it, without the test's targets."
    import pandas as pd
    from saerec.data import HeldOut, Ratings, Split
    users = pd.DataFrame({"user_id": np.arange(data.n_users)})
    titles = [f"movie {i}" for i in range(data.n_movies)]
    movies = pd.DataFrame({"movie_id": np.arange(data.n_movies), "title": titles, "genres": ""})
    movies["year"] = pd.array([None] * data.n_movies, dtype="Int16")

    def ratings(*parts: str) -> Ratings:
        user, movie = (np.concatenate([np.zeros(0, np.int32), *(data.cells[f"{p}_{c}"] for p in parts)])
                       for c in ("user", "movie"))
        ones = np.ones(len(user), np.float32)
        return Ratings(user.astype(np.int32), movie.astype(np.int32), ones, users, movies, name="likes")

    train, valid, known = ratings("train"), ratings("valid"), ratings("train", "valid")
    return Split(train, HeldOut(train, train, valid), HeldOut(train, known, ratings()), "given", data.seed)


def scores_of(model, split) -> Scores:
    "The scores of a saerec model for users by code."
    import torch
    from saerec.data import to_batch
    rows = to_batch(split.train)
    def scores(users: np.ndarray) -> np.ndarray:
        with torch.no_grad(): return model.scores(rows.take(torch.from_numpy(users))).numpy()
    return scores


def saerec_network(data: Data, times: Times) -> tuple[Scores, dict]:
    "The single network with saerec's own settings; after each epoch everybody is ranked, off the clock."
    import saerec.train as t
    split, plain, curve, extra = split_of(data), t.find_objective("ranking"), [], {}
    start = time.perf_counter(), time.process_time()
    def now() -> list[float]: return [time.perf_counter() - start[0], time.process_time() - start[1]]

    def validate(model, held):
        with times("validation"): row = plain.validate(model, held)
        with times("off the clock"):
            curve.append([a - b for a, b in zip(now(), times.get("off the clock"), strict=True)])
            scores = scores_of(model.eval(), split)
            for name, hidden in (("valid", data.train), ("test", data.known)):
                extra.setdefault(f"{name}_by_epoch", []).append(rank(scores, data, hidden, 10))
        return row

    with times("fit"):
        model = t.make_model("ranking", data.n_movies, seed=data.seed)
        settings = t.settings_for("ranking", split.train, member=True)
        recorder = t.fit(model, split, replace(plain, validate=validate), seed=data.seed, say=None, **settings)

    about = {"settings": settings, "epochs": len(recorder.rows), "best_epoch": recorder.best_epoch, "curve": curve}
    return scores_of(model, split), about | {"arrays": {k: np.stack(v) for k, v in extra.items()}}


def saerec_stack(data: Data, times: Times) -> tuple[Scores, dict]:
    "The default stack; like the others it learns from training only (refit=False)."
    from saerec.ensemble import rank_ensemble
    split = split_of(data)
    with times("fit"): model = rank_ensemble(split, refit=False)
    return scores_of(model, split), {"settings": {"refit": False}}


def saerec_default(data: Data, times: Times) -> tuple[Scores, dict]:
    "What `saerec train` ranks with."
    from saerec.recommend.training import fit_ranker
    split = split_of(data)
    with times("fit"): model = fit_ranker("auto", split, {}, seed=data.seed, progress=False, say=None)[0]
    return scores_of(model, split), {"settings": {"members": {k: float(w) for k, w in model.weights.items()}}}


def saerec_ease(data: Data, times: Times) -> tuple[Scores, dict]:
    from saerec.evaluate.baselines import EASE
    split = split_of(data)
    with times("fit"): model = EASE(RIDGE).fit(split.train)
    return scores_of(model, split), {"settings": {"regularization": RIDGE}}


# --- RecBole ---

def mend_recbole() -> None:
    "What RecBole 1.2.1 asks for and does not need here, as empty modules; and the default that torch.load had then."
    import torch
    for name in ("ray", "ray.tune", "hyperopt", "hyperopt.pyll", "hyperopt.pyll.base", "thop", "kmeans_pytorch"):
        try: __import__(name)
        except Exception: sys.modules[name] = types.ModuleType(name)
    for name in ("thop", "kmeans_pytorch"):
        for f in ("profile", "kmeans"):
            if not hasattr(sys.modules[name], f): setattr(sys.modules[name], f, None)
    plain = torch.load
    torch.load = lambda *args, **kw: plain(*args, **({"weights_only": False} | kw))


RECBOLE = {  # what differs from RecBole's defaults; with its `eval_batch_size` most of the time goes to validation
    "checkpoint_dir": "saved", "benchmark_filename": ["train", "valid", "test"],
    "load_col": {"inter": ["user_id", "item_id"]}, "use_gpu": False, "show_progress": False, "state": "ERROR",
    "train_neg_sample_args": None, "metrics": ["NDCG"], "topk": [10], "valid_metric": "NDCG@10",
    "metric_decimal_place": 6, "eval_batch_size": 4_000_000}
TOLD = ("train_batch_size", "learning_rate", "epochs", "stopping_step", "eval_batch_size", "mlp_hidden_size",
        "latent_dimension", "reg_weight")


def recbole_cells(data: Data, folder: Path) -> None:
    "The cells in RecBole's layout. It asks for a test, and gets the validation cells again."
    folder.mkdir(exist_ok=True)
    for part, source in (("train", "train"), ("valid", "valid"), ("test", "valid")):
        cells = zip(data.cells[f"{source}_user"], data.cells[f"{source}_movie"], strict=True)
        lines = ["user_id:token\titem_id:token", *(f"{u}\t{m}" for u, m in cells)]
        (folder / f"cells.{part}.inter").write_text("\n".join(lines) + "\n")


def recbole_fit(trainer, train, valid, times: Times, start: tuple[float, float]) -> tuple[float, list[list[float]]]:
    "RecBole's own training; its best value of validation, and [clock, processor, value] after each epoch."
    curve: list[list[float]] = []

    def timed(run: Callable, kind: str) -> Callable:
        def run_timed(*args, **kw):
            with times(kind): out = run(*args, **kw)
            spent = [time.perf_counter() - start[0], time.process_time() - start[1]]
            if kind == "validation": curve.append([*spent, float(out[0])])
            return out
        return run_timed

    trainer._train_epoch = timed(trainer._train_epoch, "training")
    trainer._valid_epoch = timed(trainer._valid_epoch, "validation")
    best, _ = trainer.fit(train, valid, verbose=False, saved=valid is not None)
    return best, curve


def recbole_scores(model, dataset, data: Data) -> Scores:
    "The scores of a RecBole model for users by code."
    import torch
    from recbole.data.interaction import Interaction
    columns = np.array([int(t) for t in dataset.id2token(dataset.iid_field, np.arange(1, dataset.item_num))])
    users = dataset.id2token(dataset.uid_field, np.arange(1, dataset.user_num))
    tokens = {int(t): i for i, t in enumerate(users, 1)}

    def scores(users: np.ndarray) -> np.ndarray:
        own = torch.tensor([tokens.get(int(u), 0) for u in users])  # 0 is RecBole's padding: a user without ratings
        with torch.no_grad(): s = np.asarray(model.full_sort_predict(Interaction({dataset.uid_field: own})))
        return spread(s.reshape(len(users), -1)[:, 1:], columns, data.n_movies)

    return scores


def recbole(name: str, data: Data, times: Times, **settings) -> tuple[Scores, dict]:
    """A model of RecBole by its own trainer, its early stopping on NDCG@10 of validation.

    Fitting is making the model and `Trainer.fit`; reading the data is not counted."""
    mend_recbole()
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed
    folder = Path.cwd() / "cells"
    recbole_cells(data, folder)

    given = {"data_path": str(folder.parent), "seed": data.seed} | RECBOLE | settings
    config = Config(model=name, dataset="cells", config_dict=given)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)

    closed = name == "EASE"
    start = time.perf_counter(), time.process_time()
    with times("fit"):
        model = get_model(name)(config, train.dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        best, curve = recbole_fit(trainer, train, None if closed else valid, times, start)

    about: dict = {"settings": {k: config[k] for k in TOLD if config[k] is not None}}
    if not closed:
        kept = torch.load(trainer.saved_model_file)
        model.load_state_dict(kept["state_dict"])
        model.load_other_parameter(kept.get("other_parameter"))
        best_epoch = 1 + int(np.argmax([c[2] for c in curve]))
        about |= {"epochs": len(curve), "best_epoch": best_epoch, "own_valid": float(best), "curve": curve}
    return recbole_scores(model.eval(), dataset, data), about


# --- implicit, Cornac, LensKit ---

def implicit_als(data: Data, times: Times) -> tuple[Scores, dict]:
    from implicit.als import AlternatingLeastSquares
    settings = {"factors": 32, "regularization": 10.0, "alpha": 5.0, "iterations": 15}
    threads = int(os.environ.get("OMP_NUM_THREADS", 0))
    with times("fit"):
        model = AlternatingLeastSquares(**settings, random_state=data.seed, use_gpu=False, num_threads=threads)
        model.fit(data.train, show_progress=False)
    return lambda users: model.user_factors[users] @ model.item_factors.T, {"settings": settings}


def cornac(make: Callable, data: Data, times: Times, settings: dict) -> tuple[Scores, dict]:
    from cornac.data import Dataset
    users, movies = (data.cells[f"train_{k}"].tolist() for k in ("user", "movie"))
    cells = Dataset.from_uir(zip(users, movies, [1.0] * len(users), strict=True), seed=data.seed)
    with times("fit"): model = make(**settings, verbose=False, seed=data.seed).fit(cells)
    columns = np.array(cells.item_ids)
    def scores(users: np.ndarray) -> np.ndarray:
        out = np.zeros((len(users), len(columns)), np.float32)
        for i, u in enumerate(users.tolist()):
            if u in cells.uid_map: out[i] = np.asarray(model.score(cells.uid_map[u])).ravel()
        return spread(out, columns, data.n_movies)
    return scores, {"settings": settings}


def cornac_ease(data: Data, times: Times) -> tuple[Scores, dict]:
    from cornac.models import EASE
    return cornac(EASE, data, times, {"lamb": RIDGE, "posB": False})


def cornac_vaecf(data: Data, times: Times) -> tuple[Scores, dict]:
    from cornac.models import VAECF
    settings = {"k": 10, "autoencoder_structure": [20], "n_epochs": 100, "batch_size": 100,
                "learning_rate": 0.001, "beta": 1.0}
    return cornac(VAECF, data, times, settings)


def lenskit_ease(data: Data, times: Times) -> tuple[Scores, dict]:
    import pandas as pd
    from lenskit.data import ItemList, from_interactions_df
    from lenskit.data.query import RecQuery
    from lenskit.knn import EASEScorer
    from lenskit.training import TrainingOptions
    rows = pd.DataFrame({"user_id": data.cells["train_user"], "item_id": data.cells["train_movie"]})
    cells = from_interactions_df(rows)
    model = EASEScorer(regularization=RIDGE)
    with times("fit"): model.train(cells, TrainingOptions(rng=data.seed))
    columns, known = cells.items.ids(), set(cells.users.ids().tolist())
    everything = ItemList(columns, vocabulary=cells.items)

    def scores(users: np.ndarray) -> np.ndarray:
        out = np.zeros((len(users), len(columns)), np.float32)
        for i, u in enumerate(users.tolist()):
            if u not in known: continue
            query = RecQuery(user_id=u, user_items=cells.user_row(u))
            out[i] = np.nan_to_num(model(query=query, items=everything).scores())
        return spread(out, columns.astype(int), data.n_movies)

    return scores, {"settings": {"regularization": RIDGE}}


RUNNERS: dict[str, Callable[[Data, Times], tuple[Scores, dict]]] = {
    "saerec-network": saerec_network, "saerec-stack": saerec_stack, "saerec-default": saerec_default,
    "saerec-ease": saerec_ease,
    "recbole-multidae": lambda d, t: recbole("MultiDAE", d, t),
    "recbole-multidae-500": lambda d, t: recbole("MultiDAE", d, t, train_batch_size=500),
    "recbole-multivae": lambda d, t: recbole("MultiVAE", d, t),
    "recbole-ease": lambda d, t: recbole("EASE", d, t, reg_weight=RIDGE),
    "implicit-als": implicit_als,
    "cornac-ease": cornac_ease, "cornac-vaecf": cornac_vaecf,
    "lenskit-ease": lenskit_ease,
}


def peak_mib() -> float:
    "The largest memory of this process. On Linux `VmHWM`: `ru_maxrss` may remember the program that started this one."
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        unit = 1024 if sys.platform == "darwin" else 1
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit / 1024


def main(name: str, split: str, out: str) -> None:
    times, data = Times(), Data(split)
    before = os.getloadavg()[0]
    scores, about = RUNNERS[name](data, times)
    fit_peak = peak_mib()
    arrays = about.pop("arrays", {})
    with times("rank"): test = rank(scores, data, data.known)
    np.savez_compressed(f"{out}.npz", valid=rank(scores, data, data.train), test=test, **arrays)

    fit, beside = times.get("fit"), times.get("off the clock")
    versions = {}
    for library in {name.split("-")[0], "numpy", "scipy", "torch"}:
        try: versions[library] = importlib.metadata.version(library).split("+")[0]
        except importlib.metadata.PackageNotFoundError: pass

    times.total["fit"] = [a - b for a, b in zip(fit, beside, strict=True)]
    about |= {"seconds": times.total, "peak_fit_mib": fit_peak, "peak_mib": peak_mib(),
              "load": [before, os.getloadavg()[0]], "versions": versions}
    Path(f"{out}.json").write_text(json.dumps(about))


if __name__ == "__main__": main(*sys.argv[1:])
