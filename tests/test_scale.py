"""Ratings -> mapped rows -> batches loses nothing; the fast and the careful reader of plain files agree.

SAEREC_EXAMPLES=2000 pytest tests/test_scale.py   tries more, and other, examples than the fixed ones."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from synthetic import gini, shape_at, synthetic_ratings

from saerec.data import Batch, InputError, Ratings, open_csr, read_ratings, reading, to_batch, write_csr
from saerec.data.exchange import open_rows

MORE = os.environ.get("SAEREC_EXAMPLES")
tries = settings(max_examples=int(MORE or 50), derandomize=not MORE, deadline=None, database=None,
                 suppress_health_check=list(HealthCheck))
pytestmark = pytest.mark.filterwarnings("ignore")  # pandas warns about lines that are too long; the outcome counts


def same(a: Batch, b: Batch) -> bool:
    arrays = ((getattr(a, k), getattr(b, k)) for k in ("offsets", "movies", "values", "users"))
    return a.n_movies == b.n_movies and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in arrays)


@st.composite
def ratings(draw) -> Ratings:
    "Ratings of any order, with users and movies that have none, ids of one type, and perhaps times."
    n_users, n_movies = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    a_cell = st.tuples(st.integers(0, n_users - 1), st.integers(0, n_movies - 1))
    cells = draw(st.lists(a_cell, max_size=40, unique=True))
    user, movie = np.array(cells, dtype=np.int32).reshape(-1, 2).T
    value = draw(st.lists(st.floats(-1e6, 1e6, width=32), min_size=len(cells), max_size=len(cells)))
    time = draw(st.none() | st.lists(st.integers(-2**60, 2**60), min_size=len(cells), max_size=len(cells)))

    numbers = draw(st.booleans())
    def ids(n: int) -> list: return list(range(n)) if numbers else [f"é{i}" for i in range(n)]
    year = pd.array([None] * n_movies, "Int16")
    movies = pd.DataFrame({"movie_id": ids(n_movies), "title": "x", "year": year, "genres": ""})
    users = pd.DataFrame({"user_id": ids(n_users)})
    return Ratings(user, movie, value, users, movies, None if time is None else np.array(time, np.int64))


@given(r=ratings(), data=st.data())
@tries
def test_mapped_rows_lose_nothing(r: Ratings, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as tmp:
        path = write_csr(r, Path(tmp) / "r.safetensors")
        mapped, whole = open_csr(path), to_batch(r)
        name, _, users, movies = open_rows(path)
        assert name == r.name and users.tolist() == r.users.user_id.tolist()
        assert movies.tolist() == r.movies.movie_id.tolist()

        assert len(mapped) == len(whole)
        assert torch.equal(mapped.counts, whole.counts) and torch.equal(mapped.users, whole.users)
        assert same(mapped.take(mapped.users), whole)
        some = torch.tensor(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=8)), dtype=torch.int64)
        assert same(mapped.take(some), whole.take(some))
        with pytest.raises(IndexError): mapped.take(torch.tensor([len(whole)]))
        assert os.listdir(tmp) == ["r.safetensors"]


def tiny() -> Ratings:
    n = np.arange(12)
    return read_ratings(pd.DataFrame({"user": n // 3, "movie": n % 4, "rating": 3.5, "timestamp": n}))


@given(cut=st.floats(0, 1), where=st.lists(st.floats(0, 0.999), max_size=3), mask=st.integers(1, 255))
@tries
def test_wild_files(cut: float, where: list[float], mask: int) -> None:
    "A file that was changed is read, or there is one sentence that names it."
    with tempfile.TemporaryDirectory() as tmp:
        path = write_csr(tiny(), Path(tmp) / "r.safetensors")
        whole = path.read_bytes()
        data = bytearray(whole[:max(1, int(len(whole) * cut))])
        for w in where: data[int(w * len(data))] ^= mask
        path.write_bytes(data)
        try: assert len(open_csr(path)) == 4
        except InputError as e: assert str(path) in str(e) and str(e).endswith(".") and str(e).isprintable()


# --- a disk without room, a process that is killed ---

CHILD = """
import resource, sys
from pathlib import Path
from saerec.data import InputError, load_movielens, write_csr
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try: write_csr(load_movielens(), Path(sys.argv[1]) / "r.safetensors")
except InputError as e: print(e)
"""

KILLED = """
import os, sys
import saerec.disk
from saerec.data import load_movielens, write_csr
os.fsync = lambda file: os._exit(9)
write_csr(load_movielens(), sys.argv[1] + "/r.safetensors")
"""


def child(code: str, tmp: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[1]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([sys.executable, "-c", code, str(tmp)], env=env, capture_output=True, text=True,
                          timeout=120, stdin=subprocess.DEVNULL)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of processes are a thing of Unix")
def test_no_room(tmp_path: Path) -> None:
    "A file may not grow beyond 20,000 bytes: the system itself refuses the write, in the middle of a file."
    done = child(CHILD, tmp_path)
    assert not done.returncode, done.stderr
    assert "it cannot be written" in done.stdout and "File too large" in done.stdout
    assert os.listdir(tmp_path) == []


def test_killed_in_the_middle(tmp_path: Path) -> None:
    "What is there then does not look like data, and does not stand in the way."
    path = tmp_path / "r.safetensors"
    assert child(KILLED, tmp_path).returncode == 9
    assert [n.endswith(".new") for n in os.listdir(tmp_path)] == [True]
    assert len(open_csr(write_csr(tiny(), path))) == 4


# --- the fast reader ---

number = st.sampled_from([
    "1", "2", "3", "31", "007", "-0", "0x1F", "+1", " 2", "2 ", "1.0", "1e1", "", "x", '"1"', '"0x1F"', "1_0",
    "99999999999999999999", "4611686018427387905", "nan", "inf", "1e39", "1d2", "4,5", "é", "\t3"])
digits = st.integers(1, 5).map(str)
heads = st.sampled_from([
    "userId,movieId,rating,timestamp", "user,movie,rating", '"user","movie","rating"', "movie , user, Rating",
    "user,movie,rating,title", "user,movie,rating,rating", "1,2,3"])


@st.composite
def nearly_plain(draw) -> bytes:
    "A file of ratings in which nearly every field is a number."
    head = draw(heads)
    width = head.count(",") + 1
    rows = draw(st.lists(st.lists(digits, min_size=width, max_size=width), min_size=1, max_size=8))
    if draw(st.booleans()): rows[draw(st.integers(0, len(rows) - 1))][draw(st.integers(0, width - 1))] = draw(number)

    lines = [head, *(",".join(o) for o in rows)]
    if draw(st.booleans()):
        odd = st.sampled_from(["", " ", ",", "1,1", "1,2,3,4,5,6"])
        lines.insert(draw(st.integers(0, len(lines))), draw(odd))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return (end.join(lines) + draw(st.sampled_from(["", end]))).encode("utf-8-sig" if draw(st.booleans()) else "utf-8")


def outcome(path: Path):
    try: r = read_ratings(path)
    except InputError as e: return str(e)
    time = None if r.time is None else r.time.tolist()
    return r.fingerprint(), time, r.users.dtypes.tolist(), r.movies.dtypes.tolist(), r.movies.title.tolist()


@given(data=nearly_plain())
@example(data=b"user,movie,rating\n1,0x1F,3\n2,31,4\n")
@example(data=b"user,movie,rating\n1,1,3\n\n1,1,4\n")
@settings(tries, max_examples=int(MORE or 150))
def test_fast_and_careful_agree(data: bytes) -> None:
    "Whatever the fast reader takes, the careful one reads the same from it; else both say the same."
    with tempfile.TemporaryDirectory() as tmp:
        (path := Path(tmp) / "r.csv").write_bytes(data)
        fast = outcome(path)
        with patch.object(reading, "_plain_table", lambda path: None): assert outcome(path) == fast


def integers(lo: int, hi: int, n: int) -> st.SearchStrategy:
    return st.lists(st.integers(lo, hi), min_size=n, max_size=n)


@given(data=st.data(), n=st.integers(1, 12), wide=st.booleans(), kind=st.sampled_from(["int64", "int32", "int8"]))
@tries
def test_integer_frames_agree(data: st.DataObject, n: int, wide: bool, kind: str) -> None:
    top = min(2**62, np.iinfo(kind).max) if wide else 4
    user, movie = (np.array(data.draw(integers(-top, top, n)), kind) for _ in range(2))
    values = st.floats(0, 5) | st.sampled_from([float("inf"), 1e300])
    rating = data.draw(st.lists(values, min_size=n, max_size=n))
    df = pd.DataFrame({"user": user, "movie": movie, "rating": rating})

    def result(df: pd.DataFrame):
        try: r = read_ratings(df, scale=(-1, 2e39))
        except InputError as e: return str(e)
        return r.fingerprint()

    fast = result(df)
    assert result(df.astype({"user": object, "movie": object})) == fast


# --- synthetic ratings ---

@given(n=st.integers(20_000, 150_000), seed=st.integers(0, 2**32))
@settings(tries, max_examples=int(MORE or 8))
def test_synthetic_ratings_of_any_size(n: int, seed: int) -> None:
    r, o = synthetic_ratings(n, seed), shape_at(n)
    assert (len(r), r.n_users, r.n_movies) == (n, o.users, o.movies)
    assert (np.diff(r.user.astype(np.int64) * r.n_movies + r.movie) > 0).all()
    per_user, per_movie = np.bincount(r.user), np.bincount(r.movie, minlength=r.n_movies)
    assert per_user.min() >= 20 and per_movie.min() >= 1
    assert abs(gini(per_movie) - o.gini) < (0.02 if n >= 100_000 else 0.1)  # the first of each movie counts
    assert abs(np.median(per_user) / (o.loc + o.scale) - 1) < 0.03
    assert set(np.unique(r.value)) <= set(np.arange(1, 11) / 2)
