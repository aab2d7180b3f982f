"""What people bring to training and measuring, with the right outcome of each: implicit feedback, few users, scales.

The command line is called in this process; small networks, one epoch each."""

import json
import runpy
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from saerec.cli.command import main
from saerec.data import Ratings, load_movielens, read_ratings
from saerec.recommend import Recommender, compute_report, training, verdict
from saerec.recommend.resume import training_folder

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT / "tests" / "cases"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    "Exit code, stdout and stderr of the command line."

    def run(*argv: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(o) for o in argv])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def base() -> pd.DataFrame:
    "The 40 most active users of the bundled data and their 120 most rated movies: user, movie, rating, title."
    r = load_movielens()
    users, movies = (np.argsort(-np.bincount(o), kind="stable")[:n] for o, n in ((r.user, 40), (r.movie, 120)))
    r = r.select(np.isin(r.user, users) & np.isin(r.movie, movies))
    d = r.frame()
    return pd.DataFrame({"user": d.user_id, "movie": d.movie_id, "rating": d.rating, "title": d.title})


@pytest.fixture
def train(call: Call, tmp_path: Path) -> Callable[..., tuple[Recommender, dict[str, Any], str]]:
    "Train on a frame or a file with one epoch a network; the model as loaded, what --json says, and stderr."

    def run(data: pd.DataFrame | Path, *options: Any) -> tuple[Recommender, dict[str, Any], str]:
        if isinstance(data, pd.DataFrame):
            data = saved(data, tmp_path / "ratings.csv")
        out = tmp_path / "model"
        code, js, err = call("train", "--data", data, "--out", out, "--epochs", 1, "--json", *options)
        assert code == 0, err
        assert "Traceback" not in err and not training_folder(out).exists()
        return Recommender.load(out), json.loads(js), err

    return run


def saved(d: pd.DataFrame, path: Path) -> Path:
    d.to_csv(path, index=False)
    return path


def refused(call: Call, tmp_path: Path, data: pd.DataFrame | Path, *options: Any) -> str:
    "The one sentence of a training that cannot begin; nothing is written."
    if isinstance(data, pd.DataFrame):
        data = saved(data, tmp_path / "ratings.csv")
    code, out, err = call("train", "--data", data, "--out", tmp_path / "model", "--epochs", 1, *options)
    lines = [line for line in err.splitlines() if line.startswith("saerec: ")]  # beside what the reader understood
    assert (code, out, len(lines)) == (1, "", 1) and "Traceback" not in err, err
    assert not (tmp_path / "model").exists() and not training_folder(tmp_path / "model").exists()
    return lines[0]


def person(rec: Recommender) -> dict[Any, float]:
    "Three movies with the best mark of the data."
    return dict.fromkeys(rec.movies.title[rec.artefact.rank_codes[:3]].tolist(), rec.manifest.scale[1])


def check_without_likes(rec: Recommender, told: dict[str, Any], call: Call, folder: Path) -> None:
    "A model that predicts no likes ranks, explains, exports and is measured again; of likes it claims nothing."
    assert not rec.predicts_likes and told["test_loss"] is None
    assert set(rec.report) == {"NDCG@10", "NDCG@100", "Recall@20", "Recall@50"}
    assert any(line.startswith("MSE, AUC and the probability of a like are left out") for line in told["verdict"])

    who = person(rec)
    top = rec.recommend(who, n=5)
    assert len(top) == 5 and "p_like" not in top
    assert rec.recommend(who, n=5, calibrate=0).score.is_monotonic_decreasing
    assert list(rec.explain(who, top.title.iloc[0])) == ["movie", "title", "stars", "change"]
    many = pd.DataFrame([("a", k, v) for k, v in who.items()], columns=["user", "title", "rating"]).assign(
        movie=lambda d: d.title
    )
    assert rec.recommend_many(many[["user", "movie", "rating"]], n=5).title.tolist() == top.title.tolist()

    assert "No probability of liking" in (folder / "model_card.md").read_text("utf-8")

    typed = [f"{k}={v:g}" for k, v in who.items()]
    for argv in (("recommend", *typed), ("explain", top.title.iloc[0], *typed), ("similar", top.title.iloc[0])):
        code, out, err = call(*argv, "--model", folder)
        assert code == 0 and "p_like" not in out and "probability" not in out, err
    code, out, err = call("export", "--model", folder, "--onnx", folder.parent / "m.onnx")
    assert code == 0 and "input liked, output scores" in out, err
    if rec.manifest.refit:
        return
    code, js, err = call("evaluate", "--model", folder, "--json")
    assert code == 0 and json.loads(js)["report"][0]["NDCG@100"] == pytest.approx(
        rec.report["NDCG@100"].iloc[0], abs=1e-6
    ), err


# --- F1, R3: implicit feedback, and everything liked ---


@pytest.mark.parametrize(("value", "options"), [(1, ("--threshold", 1)), (1, ()), (5, ()), (5, ("--held-out", 1))])
def test_all_ratings_are_equal(
    base: pd.DataFrame, train: Any, call: Call, tmp_path: Path, value: int, options: Sequence[Any]
) -> None:
    rec, told, err = train(base.assign(rating=value), *options)
    assert rec.manifest.feedback == "implicit" and err.count("what predicts likes is left out") == 1
    check_without_likes(rec, told, call, tmp_path / "model")


def test_implicit_ensemble_and_refit(base: pd.DataFrame, call: Call, tmp_path: Path) -> None:
    "As --ranker stack and --refit do it, in this process and with one multinomial network."
    folder, few = tmp_path / "model", {"epochs": 1, "n_multinomial": 1}
    r = read_ratings(saved(base.assign(rating=1), tmp_path / "ratings.csv"))
    Recommender.fit(
        r,
        say=None,
        ranker="stack",
        refit=True,
        ranking_changes=few,
        keep=lambda artefact: Recommender(artefact).save(folder),
    )
    rec = Recommender.load(folder)
    assert rec.report.index[0] == "Ensemble" and rec.manifest.refit and len(rec.artefact.rank_codes) == len(rec.movies)
    check_without_likes(rec, {"test_loss": None, "verdict": verdict(rec.report)}, call, folder)


@pytest.mark.parametrize("columns", [["user", "movie"], ["user", "movie", "time"], ["user", "title"]])
def test_no_rating_column(base: pd.DataFrame, train: Any, call: Call, tmp_path: Path, columns: Sequence[str]) -> None:
    rec, told, err = train(base.assign(time=10**9)[columns])
    assert "there is no rating column: this is implicit feedback" in err
    check_without_likes(rec, told, call, tmp_path / "model")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 100)])
def test_two_marks_predict_likes(base: pd.DataFrame, train: Any, low: int, high: int) -> None:
    scale = ("--scale", low, high) if high == 100 else ()  # a 0 among large marks may mean: not rated
    rec, told, err = train(base.assign(rating=np.where(base.rating >= 4, high, low)), *scale)
    assert rec.manifest.threshold == high and rec.manifest.feedback == "explicit"
    assert f"A rating of {high} or more is a like, the default for the scale from {low} to {high}" in err
    assert rec.recommend(person(rec)).p_like.between(0, 1).all() and told["test_loss"] < 0.3


def test_threshold_below_all_ratings(base: pd.DataFrame, train: Any, call: Call, tmp_path: Path) -> None:
    rec, told, err = train(base, "--threshold", 0.5)
    assert (
        rec.manifest.feedback == "explicit"
        and "100% of the ratings are likes at threshold 0.5" in err
        and "only likes to learn from" in err
    )
    check_without_likes(rec, told, call, tmp_path / "model")


@pytest.mark.parametrize("seed", range(5))
def test_nearly_all_liked(train: Any, seed: int) -> None:
    "On two of five seeds all ratings of the test are likes."
    rec, told, err = train(CASES / "friends.csv", "--seed", seed)
    assert rec.predicts_likes and "94% of the ratings are likes" in err and "NDCG@100" in rec.report
    left_out = [
        line
        for line in told["verdict"]
        if line.startswith("MSE and AUC are left out: all of the 12 held-out ratings are likes.")
    ]
    assert len(left_out) == ("MSE" not in rec.report) and (told["test_loss"] is None) == ("MSE" not in rec.report)


def test_one_dislike_in_all(base: pd.DataFrame, train: Any) -> None:
    "It may lie in any part: whatever can be measured then is, and the list is there."
    for seed in range(3):
        one = base.assign(rating=np.where(np.arange(len(base)) == 7, 1, 5))
        rec, told, _ = train(one, "--seed", seed)
        assert len(rec.recommend(person(rec))) == 10 and "NDCG@100" in rec.report and len(told["verdict"]) >= 2


# --- F2: few users ---


def family() -> pd.DataFrame:
    "Four users of the bundled data."
    d = load_movielens().frame()
    d = d[d.user_id.isin(FAMILY)]
    return pd.DataFrame({"user_id": d.user_id, "movie_id": d.movie_id, "rating": d.rating, "title": d.title})


FAMILY = (4, 15, 17, 19)


def test_four_users(train: Any) -> None:
    rec, told, _ = train(family())
    assert rec.manifest.n_held == 1 and {"MSE", "AUC", "NDCG@100"} <= set(rec.report)
    assert told["verdict"][-1] == "NDCG@100: no interval, because 1 user is held out and two are needed to draw from."
    assert {d["metric"] for d in rec.manifest.report_about["differences"]} == {"MSE"}


def test_six_users(train: Any) -> None:
    rec, _, _ = train(CASES / "tiny.csv")
    assert rec.manifest.n_held == 1 and "NDCG@100" in rec.report and rec.known is not None and rec.known.n_users == 6


def test_one_held_out(base: pd.DataFrame, train: Any) -> None:
    assert train(base, "--held-out", 1)[0].manifest.n_held == 1


@pytest.mark.parametrize("n", [0, -1, 20, 1000])
def test_held_out_that_cannot_be(base: pd.DataFrame, call: Call, tmp_path: Path, n: int) -> None:
    said = refused(call, tmp_path, base, "--held-out", n)
    assert f"{n} users cannot be held out for each of validation and test; of the 40 with 5 or more likes" in said
    assert "1 to 19 can (--held-out)" in said


def test_too_few(base: pd.DataFrame, call: Call, tmp_path: Path) -> None:
    three = base[base.user.isin(base.user.unique()[:3])]
    assert "3 users have 5 or more likes (ratings of 4 or more), and 4 are needed" in refused(call, tmp_path, three)
    alone = base[base.user == base.user.iloc[0]]
    assert "only 1 user" in refused(call, tmp_path, alone)
    assert "only 1 user" in refused(call, tmp_path, alone.assign(rating=1))
    one_movie = base.assign(rating=np.where(base.movie == base.movie.iloc[0], 5, 1))
    assert "0 users have 5 or more likes (ratings of 5 or more)" in refused(call, tmp_path, one_movie, "--threshold", 5)
    assert (
        "no rating reaches 6, from which one is a like, and the highest is 5; give a lower threshold (--threshold)"
        in refused(call, tmp_path, base, "--threshold", 6)
    )


def test_nothing_in_common(call: Call, tmp_path: Path) -> None:
    "Four users without a movie in common: nobody's likes can be found by what others like."
    apart = pd.DataFrame(
        [(u, 100 * u + m, 5 if m else 1) for u in range(4) for m in range(8)], columns=["user", "movie", "rating"]
    )
    said = refused(call, tmp_path, apart)
    assert "nobody held out for validation likes two movies that others like too" in said


# --- a fault after training ---


@pytest.mark.parametrize(
    "fault", [ValueError("two or more observations"), MemoryError(), KeyError("MSE"), RuntimeError("made up")]
)
def test_measuring_costs_no_model(
    base: pd.DataFrame, train: Any, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def broken(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(training, "report", broken)
    rec, told, err = train(base)
    assert len(rec.report) == 0 and len(rec.recommend(person(rec))) == 10 and told["test_loss"] is None
    assert (
        f"saerec: warning: The model is trained. It could not be measured ({type(fault).__name__}" in err
        and len(told["verdict"]) == 1
    )
    assert "could not be measured" in (tmp_path / "model" / "model_card.md").read_text("utf-8")

    monkeypatch.undo()
    assert call("evaluate", "--model", tmp_path / "model")[0] == 0


def test_stopped_while_it_is_measured(
    base: pd.DataFrame, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    "Ctrl-C: the model is there already, and the training can go on to its report."

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    data, out = saved(base, tmp_path / "ratings.csv"), tmp_path / "model"
    monkeypatch.setattr(training, "report", stopped)
    assert call("train", "--data", data, "--out", out, "--epochs", 1)[0] == 130
    rec = Recommender.load(out)
    assert len(rec.recommend(person(rec))) == 10 and not len(rec.report)

    monkeypatch.undo()
    assert call("train", "--data", data, "--out", out, "--epochs", 1, "--resume")[0] == 0
    assert len(Recommender.load(out).report) and not training_folder(out).exists()


def test_a_fault_of_the_disk_keeps_the_training(
    base: pd.DataFrame, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = saved(base, tmp_path / "ratings.csv"), tmp_path / "model"

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr("saerec.recommend.artefact._write", full)
        code, _, err = call("train", "--data", data, "--out", out, "--epochs", 1)
    assert code == 1 and "No space left on device" in err and training_folder(out).is_dir() and not out.exists()
    assert (
        call("train", "--data", data, "--out", out, "--epochs", 1, "--resume")[0] == 0
        and not training_folder(out).exists()
    )


# --- R2: scale and threshold ---


@pytest.mark.parametrize(("factor", "threshold"), [(2, 8), (20, 80), (1, 4)])
def test_default_threshold_follows_the_scale(base: pd.DataFrame, train: Any, factor: int, threshold: float) -> None:
    rec, _, err = train(base.assign(rating=factor * base.rating))
    share = (base.rating >= 4).mean()
    assert rec.manifest.threshold == threshold
    scale = f"the scale from {0.5 * factor:g} to {5 * factor:g}: {share:.0%} of {len(base):,} ratings."
    assert f"A rating of {threshold:g} or more is a like, the default for {scale}" in err


def test_stated_scale(base: pd.DataFrame, train: Any, call: Call, tmp_path: Path) -> None:
    "All ratings are 4 on a scale from 1 to 5: implicit, whatever the scale would allow."
    rec, told, _ = train(base.assign(rating=4), "--scale", 1, 5)
    assert (rec.manifest.threshold, rec.manifest.scale, rec.manifest.feedback) == (4, [1, 5], "implicit")
    check_without_likes(rec, told, call, tmp_path / "model")


def test_protocol_on_another_scale(base: pd.DataFrame, call: Call, tmp_path: Path) -> None:
    argv = ("evaluate", "--protocol", "pairs-small", "--seeds", 0, "--only-baselines", "--json", "--data")
    one, two, equal = (
        call(*argv, saved(base.assign(rating=v), tmp_path / f"{k}.csv"))
        for k, v in {"one": base.rating, "two": 2 * base.rating, "equal": 1}.items()
    )
    assert json.loads(one[1])["report"] == json.loads(two[1])["report"]
    assert equal[0] == 1 and "like metrics need cells of both kinds; there are 334 liked and 0 not liked" in equal[2]


def test_threshold_of_another_scale_is_questioned(base: pd.DataFrame, train: Any) -> None:
    _, _, err = train(base.assign(rating=2 * base.rating), "--threshold", 2)
    assert (
        "of the ratings are likes at threshold 2, which leaves little to learn; the default for this scale is 8" in err
    )


# --- R12 and own data ---


def test_path_with_bundled_in_it(base: pd.DataFrame, call: Call, tmp_path: Path) -> None:
    "Evaluated on what it was trained on, and not on what comes with the package."
    (tmp_path / "bundled").mkdir()
    data, out = saved(base, tmp_path / "bundled" / "my bundled ratings.csv"), tmp_path / "model"
    assert call("train", "--data", data, "--out", out, "--epochs", 1)[0] == 0
    assert call("evaluate", "--model", out)[0] == 0
    shutil.rmtree(tmp_path / "bundled")
    code, _, err = call("evaluate", "--model", out)
    assert code == 1 and "are not there any more; say where with --data" in err


def test_howto_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = json.loads((ROOT / "nbs" / "howto" / "onnx.ipynb").read_text("utf-8"))["cells"]
    code = next(t for c in cells if c["cell_type"] == "code" and "onnxruntime" in (t := "".join(c["source"])))
    (tmp_path / "cell.py").write_text(code, "utf-8")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SystemExit, match="This page needs onnxruntime"):
        runpy.run_path(str(tmp_path / "cell.py"))


def test_no_message_advises_an_option_that_is_not_there() -> None:
    assert not [p for p in (ROOT / "saerec").rglob("*.py") if "min_ratings" in p.read_text("utf-8")]


def test_read_again_as_it_was_read(base: pd.DataFrame, train: Any, call: Call, tmp_path: Path) -> None:
    odd = base.rename(columns={"user": "who", "movie": "asin"}).assign(rating=np.where(base.index % 7, base.rating, -1))
    rec, told, _ = train(odd, "--columns", "user=who,movie=asin", "--unrated", -1)
    code, js, err = call("evaluate", "--model", tmp_path / "model", "--json")
    assert code == 0 and len(json.loads(js)["report"]) == len(rec.report), err


def test_items_that_are_no_films(base: pd.DataFrame, train: Any, call: Call, tmp_path: Path) -> None:
    rec, _, _ = train(base[["user", "movie", "rating"]])
    code, out, err = call("recommend", "--model", tmp_path / "model", "--user", base.user.iloc[0])
    assert code == 0 and " items would also be listed" in out and "film" not in out + err
    assert "items" in (tmp_path / "model" / "model_card.md").read_text("utf-8")


def test_many_users_by_any_names(base: pd.DataFrame, train: Any) -> None:
    rec, _, _ = train(base)
    d = base.groupby("user", sort=False).head(8).head(48)
    wanted = rec.recommend_many(d[["user", "movie", "rating"]], n=3)
    assert wanted.attrs["left_out"] == "" and len(wanted) == 3 * d.user.nunique()
    for other in (
        d.rename(columns={"user": "userId", "movie": "movieId"}),
        d.rename(columns={"movie": "item_id", "user": "user_id"}),
        pd.DataFrame({"user": d.user, "movie": d.title, "rating": d.rating}),
    ):
        assert rec.recommend_many(other, n=3).title.tolist() == wanted.title.tolist()

    chosen = rec.recommend_many(d[["user", "movie"]], n=3)  # without ratings: what was chosen is liked
    assert (
        chosen.title.tolist() == rec.recommend_many(d.assign(rating=5)[["user", "movie", "rating"]], n=3).title.tolist()
    )
    high, low = (
        rec.recommend_many(d.head(3).assign(rating=stars)[["user", "movie", "rating"]], n=3) for stars in (5, 1)
    )
    assert high.title.tolist() != low.title.tolist()  # all equal, and disliked
    assert (low.p_like < rec.recommend({}, n=3).share.max()).all()

    odd = pd.concat(
        [d, d.head(2).assign(movie=[10**8, 10**8 + 1], title=["Nowhere (2031)", "Nobody (2032)"])], ignore_index=True
    )
    found = rec.recommend_many(odd, n=3)
    assert found.title.tolist() == wanted.title.tolist()
    assert found.attrs["left_out"].startswith(f"2 of {len(odd)} ratings were left out: 2 of ")


# --- without the command line ---


def test_ratings_of_one_kind_in_python(base: pd.DataFrame) -> None:
    r = Ratings(
        *(pd.factorize(base[k])[0] for k in ("user", "movie")),
        np.ones(len(base)),
        pd.DataFrame({"user_id": base.user.unique()}),
        base.drop_duplicates("movie")[["movie", "title"]]
        .rename(columns={"movie": "movie_id"})
        .assign(year=None, genres="")
        .reset_index(drop=True),
    )
    rec = Recommender.fit(r, say=None, ranking_changes={"epochs": 1})
    pd.testing.assert_frame_equal(compute_report(rec.artefact, r), rec.report)
