"""Wild input gives valid ratings or one sentence, what is written is read back, and batches do what dense matrices do.

SAEREC_EXAMPLES=2000 pytest tests/test_properties.py   tries more, and other, examples than the fixed ones."""
import datetime as dt
import decimal
import io
import os
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from saerec.data import Batch, InputError, Ratings, read_ratings, to_batch
from saerec.evaluate import like_metrics, like_sums, top_k, value_of
from saerec.evaluate.ranking import diversity
from saerec.evaluate.calibration import Calibration
from saerec.model import Factored, catalogue_mse, gram_error

MORE = os.environ.get("SAEREC_EXAMPLES")
tries = settings(max_examples=int(MORE or 50), derandomize=not MORE, deadline=None, database=None,
                 suppress_health_check=list(HealthCheck))
fewer = settings(tries, max_examples=int(MORE or 20))
pytestmark = pytest.mark.filterwarnings("ignore")  # pandas warns about odd dtypes; only the outcome counts here


def check_valid(r: Ratings) -> None:
    "Whatever it came from, these are ratings that everything else can work with."
    assert isinstance(r, Ratings) and len(r) > 0
    assert len(r.user) == len(r.movie) == len(r.value) and (r.time is None or len(r.time) == len(r))
    assert 0 <= r.user.min() and r.user.max() < r.n_users
    assert 0 <= r.movie.min() and r.movie.max() < r.n_movies
    assert np.isfinite(r.value).all()
    assert len(np.unique(r.user.astype(np.int64) * r.n_movies + r.movie)) == len(r), "a cell is there twice"

    for ids in (r.users.user_id, r.movies.movie_id): assert ids.is_unique and ids.notna().all()
    assert set(r.movies.columns) >= {"movie_id", "title", "year", "genres"}
    assert all(isinstance(t, str) and t for t in r.movies.title)
    assert len(r.frame()) == len(r) and len(r.fingerprint()) == 16
    to_batch(r)


def check_sentence(e: InputError, source: str) -> None:
    "One line, not too long to read, that names the source and ends as a sentence does."
    text = str(e)
    assert source in text and text.endswith("."), text
    assert text.isprintable(), f"{text[:300]!r}"
    assert len(text.replace(source, "")) <= 500, f"{len(text)} characters: {text[:300]}"


def valid_or_sentence(read, source: str) -> None:
    try: r = read()
    except InputError as e: check_sentence(e, source)
    else: check_valid(r)


# --- frames ---

NAMES = ["user", "movie", "rating", "timestamp", "title", "year", "genres", "user_id", "userId", "movieId", "item_id",
         "stars", "Rating ", "name", "junk", "", "\n", "x" * 300]
odd = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.just(10**400), st.floats(), st.floats(0, 5),
    st.text(max_size=4),
    st.sampled_from(["", " ", "nan", "NA", "inf", "1e400", "4,5", "4.5", "x" * 2000, "a\nb", "\ud800", "Heat (1995)",
                     "Heat (١٩٩٥)", "2001-02-03", b"\xff", b"4", "978300760"]),
    st.datetimes(), st.dates(), st.timedeltas(), st.complex_numbers(), st.just(pd.NA), st.just(pd.NaT),
    st.just(decimal.Decimal("2.5")), st.just(decimal.Decimal("sNaN")),
    st.sampled_from([[1], {}, (1, 2), {1}]), st.builds(object), st.just(np.array([1, 2])), st.just(np.str_("z")),
    st.just(pd.Timestamp("2020", tz="UTC")))


def typed(n: int) -> st.SearchStrategy:
    "A column of n cells of one dtype."
    def column(dtype: str, values: st.SearchStrategy) -> st.SearchStrategy:
        return st.lists(values, min_size=n, max_size=n).map(lambda v: pd.Series(v, dtype=dtype))

    small, day, second = st.integers(0, 3), st.integers(0, 20_000), st.integers(-10**12, 10**12)
    word = st.text("ab1 ", max_size=2)
    return st.one_of(
        column("int64", small), column("int64", st.integers(-2**63, 2**63 - 1)),
        column("uint64", st.integers(0, 2**64 - 1)), column("Int64", st.none() | small),
        column("float64", st.floats()), column("float64", st.floats(0, 5)), column("float32", st.floats(width=32)),
        column("complex128", st.complex_numbers()), column("Sparse[float64]", st.floats(0, 5)),
        column("bool", st.booleans()), column("boolean", st.none() | st.booleans()),
        column("string", st.none() | word), column("str", word),
        column("category", st.sampled_from("abc1")), column("category", small),
        column("datetime64[ns]", day.map(lambda d: np.datetime64(d, "D"))),
        column("datetime64[s]", second.map(lambda s: np.datetime64(s, "s"))),
        column("datetime64[ns, UTC]", day.map(lambda d: pd.Timestamp(d, unit="D", tz="UTC"))),
        column("timedelta64[ns]", day.map(lambda d: pd.Timedelta(d, "D"))),
        st.lists(day, min_size=n, max_size=n).map(lambda v: pd.Series(pd.PeriodIndex.from_ordinals(v, freq="D"))),
        st.just(pd.Series(pd.interval_range(0, n))),
        st.lists(odd, min_size=n, max_size=n).map(lambda v: pd.Series(v, dtype=object)))


@st.composite
def sane_column(draw, n: int, name: str) -> pd.Series:
    "What a column should be, so that most of a wild frame passes and one odd column is what is tested."
    def values(cells: st.SearchStrategy) -> list: return draw(st.lists(cells, min_size=n, max_size=n))
    if name == "rating": return pd.Series(values(st.integers(0, 5)), dtype="float64")
    if name == "timestamp": return pd.Series(values(st.integers(0, 5)), dtype="int64")
    if name in ("title", "genres"): return pd.Series(values(st.sampled_from(["Heat (1995)", "Ran", ""])), dtype="str")
    dtype = draw(st.sampled_from(["int64", "object", "float64"]))
    return pd.Series(np.arange(n) // (2 if name == "user" else 1), dtype=dtype)


@st.composite
def frames(draw) -> pd.DataFrame:
    n = draw(st.integers(0, 5))
    if draw(st.booleans()):  # the right columns, one or two of them odd
        more = st.lists(st.sampled_from(["timestamp", "title", "genres"]), unique=True)
        names = ["user", "movie", "rating", *draw(more)]
        strange = draw(st.sets(st.sampled_from(names), max_size=2))
        columns = [draw(typed(n) if k in strange else sane_column(n, k)) for k in names]
    else:
        names = draw(st.lists(st.sampled_from(NAMES), max_size=6))
        columns = [draw(typed(n)) for _ in names]

    df = pd.concat(columns, axis=1) if columns else pd.DataFrame(index=range(n))
    df.columns = names
    how = draw(st.integers(0, 4))
    if how == 1: df.index = [0] * n
    if how == 2: df.index = pd.Index([f"a\n{i}" for i in range(n)], dtype=object)
    if how == 3: df.index = pd.MultiIndex.from_arrays([range(n), range(n)])
    return df


def base(**columns) -> pd.DataFrame:
    return pd.DataFrame({"user": [1, 1, 2], "movie": [1, 2, 1], "rating": [5, 4, 3], **columns})


def objects(*cells) -> pd.Series:
    return pd.Series(cells, dtype=object)


SPECIAL = {
    "huge int rating": base(rating=[10**400, 1, 2]),
    "rating beyond float32": base(rating=[1e300, 1, 2]),
    "array as rating": base(rating=objects(np.array([1, 2]), 2, 3)),
    "signaling NaN": base(rating=objects(decimal.Decimal("sNaN"), 2, 3)),
    "long text rating": base(rating=["x" * 10_000, 2, 3]),
    "ids that cannot be ordered": base(user=objects(1, dt.datetime(2020, 1, 1), "x")),
    "objects as ids": base(user=[object(), object(), object()]),
    "lists as ids": base(user=[[1], [2], [3]]),
    "bytes and text as ids": base(user=objects(b"a", "a", 1)),
    "surrogate id": base(user=objects("\ud800", "y", "z")),
    "surrogate movie": base(movie=objects("\ud800", "y", "z")),
    "newline in an id that is there twice": base(user=["a\nb", "a\nb", "x"], movie=[1, 1, 1]),
    "long id that is there twice": base(user=["a" * 5000, "a" * 5000, "x"], movie=[1, 1, 1]),
    "huge ids there twice": base(user=[2**60 + 1, 2**60 + 1, 1], movie=[1.5, 1.5, 1]),
    "infinite time": base(timestamp=[np.inf, 1, 2]),
    "time beyond int64": base(timestamp=[1e300, 1, 2]),
    "time beyond int64, unsigned": base(timestamp=np.array([2**64 - 1, 1, 2], dtype=np.uint64)),
    "huge time": base(timestamp=[10**400, 1, 2]),
    "year 9999": base(timestamp=["9999-12-31"] * 3),
    "year 1": base(timestamp=[dt.datetime(1, 1, 1)] * 3),
    "year 200000": base(timestamp=np.array(["200000-01-01"] * 3, dtype="datetime64[s]")),
    "Arabic digits as year": base(title=["x (١٩٩٥)", "y", "z"]),
    "bytes as title": base(title=[b"\xff", b"y", b"z"]),
    "surrogate title": base(title=objects("\ud800", "y", "z")),
    "thousands of columns": pd.DataFrame(1, index=[0], columns=[f"c{i}\n" for i in range(3000)]),
    "no columns": pd.DataFrame(),
    "no rows": base().iloc[:0],
    "newline in the index": pd.DataFrame({"user": [1], "movie": [1], "rating": ["x"]}, index=pd.Index(["a\nb"])),
    "rating twice": pd.DataFrame([[1, 2, 3, 4]], columns=["user", "movie", "rating", "rating"]),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_frames(name: str) -> None:
    valid_or_sentence(lambda: read_ratings(SPECIAL[name], name="my table"), "my table")


@given(df=frames())
@tries
def test_wild_frames(df: pd.DataFrame) -> None:
    valid_or_sentence(lambda: read_ratings(df, name="my table"), "my table")
    valid_or_sentence(lambda: read_ratings(df), "DataFrame")


@given(movies=frames())
@tries
def test_wild_movie_frames(movies: pd.DataFrame) -> None:
    valid_or_sentence(lambda: read_ratings(base(), movies=movies, name="my table"), "my table")


NO_SOURCES = ["", "no such file.csv", "a\0b", "a\nb.csv", "a" * 5000, "no.zip", "no.parquet"]


@pytest.mark.parametrize("source", NO_SOURCES, ids=lambda o: repr(o)[:20])
def test_no_source(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as e: read_ratings(source)
    check_sentence(e.value, "")


def test_dates_are_no_ratings() -> None:
    "pandas turns dates into numbers without a word."
    times = pd.to_datetime(["2020-01-01"] * 3), pd.to_timedelta([1, 2, 3], unit="D")
    for odd_rating in (*times, pd.period_range("2020", periods=3, freq="D"), np.array([1 + 2j, 1, 2])):
        with pytest.raises(InputError) as e: read_ratings(base(rating=odd_rating), name="my table")
        check_sentence(e.value, "my table")


def test_seconds_are_seconds_in_any_dtype() -> None:
    "pandas reads whole numbers in an object column as nanoseconds."
    seconds = [978300760, 978302109, 978301968]
    dates = pd.to_datetime(seconds, unit="s")
    for t in (np.array(seconds), *(pd.Series(seconds, dtype=kind) for kind in (object, "Int64", "category")),
              [float(s) for s in seconds], dates, dates.tz_localize("UTC"), dates.astype(str)):
        r = read_ratings(base(timestamp=t))
        assert r.time is not None and r.time.tolist() == seconds, t


# --- files ---

def read_bytes(data: bytes, name: str):
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / name
        path.write_bytes(data)
        valid_or_sentence(lambda: read_ratings(path), name)


FILES = st.sampled_from(["r.csv", "r.dat", "r.tsv", "r.txt", "r", "r.zip", "r.parquet", "r.PQ"])
cell = st.one_of(st.text(max_size=3), st.sampled_from([
    "1", "2", "3", "4.5", "-1", "978300760", "", " ", "NA", "x", "1e400", "1e39", "9" * 30, '"', '"a"', '"a,b"', "\0",
    "é", "\x85", "١", "::", ":", "inf", "0x1"]))
header = st.sampled_from([
    "user{0}movie{0}rating", "userId{0}movieId{0}rating{0}timestamp", "user{0}movie{0}rating{0}title",
    "user{0}movie{0}rating{0}rating", "a{0}b{0}c", "1{0}2{0}3"])
row = st.one_of(st.lists(cell, max_size=6), st.lists(st.sampled_from("12345"), min_size=3, max_size=4))


@st.composite
def texts(draw) -> str:
    "Text that is almost a table."
    sep = draw(st.sampled_from([",", ";", "\t", "::", "|", " ", ":"]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\n \n"]))
    lines = [sep.join(o) for o in draw(st.lists(row, max_size=8))]
    if draw(st.booleans()): lines.insert(0, draw(header).format(sep))
    first, last = draw(st.sampled_from(["", "\ufeff", end, "\n" * 60, " \n"])), draw(st.sampled_from(["", end]))
    return first + end.join(lines) + last


@given(data=st.binary(max_size=200), name=FILES)
@example(data=b"\xef\xbb\xbf", name="r.csv")
@example(data=b"\xef\xbb\xbf\n\n", name="r.csv")
@example(data=b"\0\0\n\0", name="r.csv")
@example(data=b"user,movie,rating\n1,1,1e39\n", name="r.csv")
@example(data=b"user,movie,rating,timestamp\n1,1,5,1e300\n", name="r.csv")
@example(data=b"x" * 100_000, name="r.csv")
@example(data=b"user,movie,rating\n" + b"y" * 100_000 + b",1,bad\n", name="r.csv")
@example(data="user,movie,rating\n1,1,5\n".encode("utf-16"), name="r.csv")
@tries
def test_wild_bytes(data: bytes, name: str) -> None:
    read_bytes(data, name)


@given(text=texts(), name=FILES, encoding=st.sampled_from(["utf-8", "latin-1", "utf-16"]))
@tries
def test_wild_text(text: str, name: str, encoding: str) -> None:
    read_bytes(text.encode(encoding, errors="replace"), name)


LAYOUTS = st.sampled_from([("u.data", "u.item"), ("ratings.dat", "movies.dat"), ("ratings.csv", "movies.csv")])


@given(ratings=texts(), movies=texts() | st.binary(max_size=40), layout=LAYOUTS, zipped=st.booleans())
@tries
def test_wild_folders(ratings: str, movies: str | bytes, layout: tuple[str, str], zipped: bool) -> None:
    def as_bytes(v: str | bytes) -> bytes: return v if isinstance(v, bytes) else v.encode("utf-8", errors="replace")
    with tempfile.TemporaryDirectory() as tmp:
        files = dict(zip(layout, map(as_bytes, (ratings, movies)), strict=True))
        path = write_files(Path(tmp), files, zipped)
        valid_or_sentence(lambda: read_ratings(path), path.name)


def parquet_bytes(df: pd.DataFrame) -> bytes:
    f = io.BytesIO()
    df.to_parquet(f)
    return f.getvalue()


def zip_bytes(text: str) -> bytes:
    f = io.BytesIO()
    with zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED) as z: z.writestr("ml/ratings.csv", text)
    return f.getvalue()


PACKED = {
    "r.zip": zip_bytes("userId,movieId,rating\n" + "".join(f"{i},{i * i % 7},4\n" for i in range(200))),
    "r.parquet": parquet_bytes(base(title=["Heat (1995)", "Ran", "Heat (1995)"])),
}
places = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4)


@given(name=st.sampled_from(sorted(PACKED)), where=places, mask=st.integers(1, 255), cut=st.floats(0.5, 1))
@example(name="r.zip", where=[0.2, 0.3], mask=255, cut=1.0)
@tries
def test_damaged_files(name: str, where: list[float], mask: int, cut: float) -> None:
    "A download that broke, a disk that failed. (Damage that leaves the checksums valid may go unseen, never unsaid.)"
    data = bytearray(PACKED[name][:max(1, int(len(PACKED[name]) * cut))])
    for w in where: data[int(w * len(data))] ^= mask
    read_bytes(bytes(data), name)


@given(df=frames())
@tries
def test_wild_parquet(df: pd.DataFrame) -> None:
    try: data = parquet_bytes(df)
    except Exception: return  # not everything can be written as Parquet
    read_bytes(data, "r.parquet")


# --- what is written is read back ---

stars = st.sampled_from([i / 2 for i in range(1, 11)]) | st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
ANY = (-1e6, 1e6)  # a stated scale: then no value is asked about
int_ids = st.integers(-2**62, 2**62) | st.integers(1, 20)
text_ids = st.text("abcéÅ日0 -", max_size=4).map(lambda s: "u" + s.strip())
plain = st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" ,;\"'()0129")
titles = st.text(plain, max_size=12) | st.sampled_from([
    "NA", "null", "nan", "Heat (1995)", "A::B", "x\x85y", "a\u2028b", '"Quoted", as it is', "None", "1984", "007",
    "#9"])


@st.composite
def tables(draw, ids: st.SearchStrategy = int_ids | text_ids, values: st.SearchStrategy = stars) -> pd.DataFrame:
    "Valid ratings: columns user, movie, rating and perhaps timestamp; the ids of a column are all numbers or all text."
    which = [draw(st.sampled_from([int_ids, text_ids])) if ids is not int_ids else ids for _ in range(2)]
    users, movies = (draw(st.lists(k, min_size=1, max_size=5, unique=True)) for k in which)
    pairs = st.tuples(st.sampled_from(users), st.sampled_from(movies))
    cells = draw(st.lists(pairs, min_size=1, max_size=12, unique=True))
    df = pd.DataFrame(cells, columns=["user", "movie"]).assign(rating=[draw(values) for _ in cells])
    if not draw(st.booleans()): return df
    seconds = [draw(st.integers(3 * 10**8, 4 * 10**9)) for _ in cells]
    return df.assign(timestamp=np.array(seconds, dtype=np.int64))


def check_same(r: Ratings, df: pd.DataFrame) -> None:
    "The same cells, ids, values and times, in the same order."
    check_valid(r)
    assert r.users.user_id.to_numpy()[r.user].tolist() == df.user.tolist()
    assert r.movies.movie_id.to_numpy()[r.movie].tolist() == df.movie.tolist()
    assert {type(i) for i in r.users.user_id.tolist()} == {type(df.user.tolist()[0])}, "ids changed their type"
    assert r.value.tolist() == df.rating.astype(np.float32).tolist()
    assert (r.time is None) == ("timestamp" not in df)
    assert r.time is None or r.time.tolist() == df.timestamp.tolist()


def table_text(df: pd.DataFrame, sep: str, header: bool, end: str = "\n") -> str:
    rows = [[str(v) for v in row] for row in df.itertuples(index=False)]
    return end.join(sep.join(o) for o in ([list(df.columns)] if header else []) + rows) + end


def write_files(tmp: Path, files: dict[str, bytes], zipped: bool) -> Path:
    "The files in a folder ml, or in ml.zip."
    if zipped:
        with zipfile.ZipFile(tmp / "ml.zip", "w", zipfile.ZIP_DEFLATED) as z:
            for k, v in files.items(): z.writestr(f"ml/{k}", v)
        return tmp / "ml.zip"
    (tmp / "ml").mkdir()
    for k, v in files.items(): (tmp / "ml" / k).write_bytes(v)
    return tmp / "ml"


@given(df=tables())
@tries
def test_frames_are_read(df: pd.DataFrame) -> None:
    check_same(read_ratings(df, scale=ANY), df)
    other = {"user": "userId", "movie": "Item_ID", "rating": " stars", "timestamp": "ts"}
    check_same(read_ratings(df.rename(columns=other), scale=ANY), df)


SEPARATORS, ENDS = st.sampled_from([",", ";", "\t", "::", "|"]), st.sampled_from(["\n", "\r\n", "\r"])


@given(df=tables(), sep=SEPARATORS, end=ENDS, blank=st.sampled_from(["", "before", "between", "after", "many"]),
       bom=st.booleans())
@example(df=pd.DataFrame({"user": [2**53, 2**53 + 1], "movie": [1, 1], "rating": [5.0, 4.0]}), sep=",", end="\n",
         blank="after", bom=False)
@tries
def test_text_with_header(df: pd.DataFrame, sep: str, end: str, blank: str, bom: bool) -> None:
    lines = table_text(df, sep, header=True, end=end).split(end)
    if blank == "before": lines.insert(0, "")
    if blank == "many": lines[:0] = [""] * 60
    if blank == "between": lines.insert(2, "")
    if blank == "after": lines.append("")
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / "r.txt"
        path.write_bytes(end.join(lines).encode("utf-8-sig" if bom else "utf-8"))
        check_same(read_ratings(path, scale=ANY), df)


@given(df=tables(ids=int_ids), sep=st.sampled_from([",", ";", "\t", "::"]), end=st.sampled_from(["\n", "\r\n", "\r"]))
@tries
def test_text_without_header(df: pd.DataFrame, sep: str, end: str) -> None:
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / "r.dat"
        text = table_text(df.assign(rating=df.rating.map(lambda v: f"{v:.6f}")), sep, header=False, end=end)
        path.write_bytes(text.encode())
        check_same(read_ratings(path, scale=ANY), df.assign(rating=df.rating.map(lambda v: float(f"{v:.6f}"))))


@given(df=tables(), kind=st.sampled_from(["r.parquet", "r.pq", "ml", "ml.zip"]))
@tries
def test_parquet(df: pd.DataFrame, kind: str) -> None:
    with tempfile.TemporaryDirectory() as tmp:
        data, path = parquet_bytes(df), Path(tmp) / kind
        if kind.startswith("ml"): path = write_files(Path(tmp), {"ratings.parquet": data}, kind == "ml.zip")
        else: path.write_bytes(data)
        check_same(read_ratings(path, scale=ANY), df)


LATIN = ["Misérables, Les (1995)", "Cité des enfants perdus, La (1995)", "Männer (1985)", "Y tu mamá también (2001)",
         "Å leve (1998)"]


def titles_csv(names: dict) -> str:
    rows = ('{},"{}",Drama|War\n'.format(i, t.replace('"', '""')) for i, t in names.items())
    return "movieId,title,genres\n" + "".join(rows)


def layout_100k(df: pd.DataFrame, known: dict) -> tuple[str, str]:
    "u.data and u.item."
    flags = "|".join("1" if g in (8, 17) else "0" for g in range(19))
    items = "".join(f"{i}|{t}|01-Jan-1995||http://example.org|{flags}\n" for i, t in known.items())
    return table_text(df.astype({"rating": int}), "\t", header=False), items


def layout_1m(df: pd.DataFrame, known: dict) -> tuple[str, str]:
    "ratings.dat and movies.dat."
    return table_text(df, "::", header=False), "".join(f"{i}::{t}::Drama|War\n" for i, t in known.items())


def layout_csv(df: pd.DataFrame, known: dict) -> tuple[str, str]:
    "ratings.csv and movies.csv."
    return table_text(df.rename(columns={"user": "userId", "movie": "movieId"}), ",", header=True), titles_csv(known)


EDITIONS = {  # files, how they are written, and what cannot stand in a title of theirs
    "100k": (("u.data", "u.item"), layout_100k, lambda t: t.replace("|", "")),
    "1m": (("ratings.dat", "movies.dat"), layout_1m, lambda t: t.strip(" :")),  # beside :: a colon is nobody's
    "csv": (("ratings.csv", "movies.csv"), layout_csv, lambda t: t),
}
few_stars = st.sampled_from([1.0, 2.0, 3.5, 5.0])


@given(df=tables(ids=int_ids, values=few_stars), names=st.lists(titles, min_size=5, max_size=5), zipped=st.booleans(),
       layout=st.sampled_from(sorted(EDITIONS)), latin=st.booleans())
@example(df=pd.DataFrame({"user": [1], "movie": [1], "rating": [5.0]}), names=["Misérables, Les (1995)"] * 5,
         zipped=True, layout="100k", latin=True)
@tries
def test_movielens_layouts(df: pd.DataFrame, names: list[str], zipped: bool, layout: str, latin: bool) -> None:
    "All editions, old ones in latin-1 and newer ones in UTF-8."
    df["user"], df["movie"] = pd.factorize(df.user)[0] + 1, pd.factorize(df.movie)[0] + 1
    df["timestamp"] = np.arange(len(df), dtype=np.int64) + 874_724_710
    if layout == "100k": df["rating"] = df.rating.round()

    (ratings_file, movies_file), write, allowed = EDITIONS[layout]
    known = dict(zip(sorted(df.movie.unique().tolist()), names, strict=False))
    if latin: known = {i: LATIN[len(t) % len(LATIN)] for i, t in known.items()}
    known = {i: allowed(t) for i, t in known.items()}

    ratings, movies = write(df, known)
    files = {ratings_file: ratings.encode(), movies_file: movies.encode("latin-1" if latin else "utf-8")}
    with tempfile.TemporaryDirectory() as tmp: r = read_ratings(write_files(Path(tmp), files, zipped))

    check_same(r, df)
    assert r.movies.title.tolist() == [t.strip() or f"movie {i}" for i, t in known.items()]
    assert r.movies.genres.tolist() == ["Drama|War"] * r.n_movies


def test_text_that_looks_missing() -> None:
    "NA, None and null are names as good as any: only an empty field is missing."
    with tempfile.TemporaryDirectory() as tmp:
        (path := Path(tmp) / "r.csv").write_text("user,movie,rating,title\nNA,null,5,None\nann,m,4,NA\n")
        r = read_ratings(path)
    assert r.users.user_id.tolist() == ["NA", "ann"] and r.movies.title.tolist() == ["NA", "None"]


def test_columns_twice_in_a_file() -> None:
    "pandas renames the second one without a word."
    with tempfile.TemporaryDirectory() as tmp:
        (path := Path(tmp) / "r.csv").write_text("user,movie,rating,rating\n1,1,5,2\n")
        with pytest.raises(InputError, match="both look like the rating"): read_ratings(path)


def test_lines_longer_than_the_first() -> None:
    "pandas drops the surplus fields without an error: whether 3 or 4 was the rating nobody knows."
    with tempfile.TemporaryDirectory() as tmp:
        (path := Path(tmp) / "r.csv").write_text("user,movie,rating\n1,1,3,4\n1,2,4,5\n")
        with pytest.raises(InputError, match="line 2"): read_ratings(path)


@pytest.mark.parametrize(("text", "line"), [
    ("user,movie,rating\n1,1,3\n1,2,x\n", 3),
    ("\n\nuser,movie,rating\n\n1,1,3\n\n1,2,x\n", 7),
    ("1,1,3\n\n1,2,x\n", 3),
    ("user,movie,rating\r\n\r\n1,1,3\r\n1,2,x\r\n", 4),
    ("user,movie,rating\n1,1,3\n1,2,3,4\n", 3),
    ("user,movie,rating\n\n1,1,3\n\n1,2,3,4\n", 5),
    ("user,movie,rating\n\n1,1,3,4\n", 3),
    ("user::movie::rating\n1::1::3\n\n1::2::x\n", 4),
    ("user,movie,rating\n1,1,3\n,2,3\n", 3)])
def test_a_fault_is_found_at_its_line(text: str, line: int, tmp_path: Path) -> None:
    "Counted as an editor counts, whatever was skipped before."
    (path := tmp_path / "r.csv").write_bytes(text.encode())
    with pytest.raises(InputError, match=rf"line {line}\b"): read_ratings(path)


# --- batches ---

def as_ratings(user: np.ndarray, movie: np.ndarray, value: np.ndarray, shape: tuple[int, int]) -> Ratings:
    "Ratings with ids and titles that do not matter."
    movies = pd.DataFrame({"movie_id": range(shape[1]), "title": "x", "year": None, "genres": ""})
    return Ratings(user, movie, value, pd.DataFrame({"user_id": range(shape[0])}), movies)


@st.composite
def batches(draw) -> Batch:
    n_users, n_movies = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    cells = st.lists(st.sampled_from([0, 0, 0, 1, 2, 5]), min_size=n_movies, max_size=n_movies)
    x = np.array(draw(st.lists(cells, min_size=n_users, max_size=n_users)), dtype=np.float32)
    user, movie = x.nonzero()
    order = draw(st.permutations(range(len(user))))
    b = to_batch(as_ratings(user[order], movie[order], x[user, movie][order], x.shape))
    assert torch.equal(b.dense(), torch.from_numpy(x))
    return b


def check_batch(b: Batch) -> None:
    "The promises of the class: whole offsets, ascending movies in each row, lengths that agree."
    assert b.offsets[0] == 0 and b.offsets[-1] == len(b.movies) == len(b.values)
    assert len(b.offsets) == len(b.users) + 1 == len(b) + 1 and (b.offsets.diff() >= 0).all()
    assert b.offsets.dtype == b.movies.dtype == torch.int64 and b.values.dtype == torch.float32
    key = b.rows * b.n_movies + b.movies
    assert (key.diff() > 0).all()


@given(b=batches(), data=st.data())
@tries
def test_batches_agree_with_dense(b: Batch, data: st.DataObject) -> None:
    check_batch(b)
    x = b.dense()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(b.csr().to_dense(), x)
    assert torch.equal(b.counts, (x != 0).sum(1))
    assert torch.equal(b.rows, x.nonzero()[:, 0]) and torch.equal(b.movies, x.nonzero()[:, 1])

    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(b) - 1), max_size=8)), dtype=torch.int64)
    t = b.take(rows)
    check_batch(t)
    assert torch.equal(t.dense(), x[rows]) and torch.equal(t.users, b.users[rows])

    n = len(b.movies)
    keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=torch.bool)
    w = b.where(keep)
    check_batch(w)
    mask = torch.zeros_like(x)
    mask[b.rows, b.movies] = keep.float()
    assert torch.equal(w.dense(), x * mask) and len(w) == len(b)
    assert torch.equal(w.take(rows).dense(), (x * mask)[rows])

    assert torch.equal(b.where(b.values > 1).dense(), torch.where(x > 1, x, 0))
    assert torch.equal(b.with_values(b.values * 2).dense(), x * 2)
    assert torch.equal(b.take(torch.arange(len(b))).dense(), x) and torch.equal(b.to("cpu").dense(), x)


@given(b=batches(), data=st.data())
@tries
def test_some_users_as_a_batch(b: Batch, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(b) - 1), min_size=1, max_size=5))
    r = as_ratings(b.rows.numpy(), b.movies.numpy(), b.values.numpy(), (len(b), b.n_movies))
    t = to_batch(r, np.array(rows))
    check_batch(t)
    assert torch.equal(t.dense(), b.dense()[rows]) and t.users.tolist() == rows


# --- calibration and intervals ---

numbers = st.floats(-1e6, 1e6, allow_nan=False)


@tries
@given(b=batches(), width=st.integers(1, 7), alpha=st.sampled_from([0.0, 0.3, 1.0, 2.5]), tied=st.booleans(),
       seed=st.integers(0, 2**31))
def test_the_catalogue_error_is_the_same_both_ways(b: Batch, width: int, alpha: float, tied: bool, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    def random(*shape: int) -> torch.Tensor: return torch.randn(*shape, dtype=torch.float64, generator=rng)
    rows, free = random(len(b), b.n_movies), random(len(b), width).requires_grad_()
    table, bias = random(b.n_movies, width).requires_grad_(), random(b.n_movies).requires_grad_()
    b = b.with_values(b.values.double())
    code = rows @ table if tied else free
    scores = Factored(code, table, bias)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    gram = gram_error(Factored(*(t.to(device) for t in (code, table, bias))), b.to(device), alpha)

    dense = catalogue_mse(scores.dense(), b, alpha)
    written = torch.full((len(b), b.n_movies), alpha, dtype=torch.float64)
    written[b.rows, b.movies] = 1.0
    assert torch.allclose(dense, (written * (scores.dense() - b.dense()) ** 2).mean(), rtol=1e-10, atol=1e-12)
    assert torch.allclose(gram.cpu(), dense, rtol=1e-10, atol=1e-12)

    inputs = [table, bias] if tied else [free, table, bias]
    both = torch.autograd.grad(gram, inputs, retain_graph=True), torch.autograd.grad(dense, inputs)
    for ours, theirs in zip(*both, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)


@tries
@given(n_rows=st.integers(1, 6), n_movies=st.integers(1, 12), k=st.integers(1, 14), levels=st.integers(1, 4),
       hidden=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_the_best_k_are_those_of_a_stable_sort(
    n_rows: int, n_movies: int, k: int, levels: int, hidden: float, seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (n_rows, n_movies)).astype(np.float32)
    scores[rng.random(scores.shape) < hidden] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    wanted = np.where(np.take_along_axis(scores, best, 1) == -np.inf, -1, best)
    assert np.array_equal(top_k(torch.from_numpy(scores), k).numpy(), wanted)


@tries
@given(st.lists(st.tuples(numbers, st.booleans()), min_size=4, max_size=40),
       st.sampled_from(["none", "platt", "isotonic"]), st.lists(numbers, min_size=2, max_size=20))
def test_calibration_gives_rising_probabilities(cells, kind: str, asked: list[float]) -> None:
    "Whatever the scores, a map gives probabilities and never turns the order round."
    score, y = np.array([s for s, _ in cells]), np.array([float(v) for _, v in cells])
    if y.all() or not y.any(): return
    try: c = Calibration.fit(kind, score, y)
    except ValueError: return  # scikit-learn refuses what float32 cannot tell apart
    if kind == "platt" and c.x[0] < 0: return  # the scores are upside down, and the map says so

    p = c(np.sort(np.array(asked)))
    assert ((p >= 0) & (p <= 1)).all() and (np.diff(p) >= -1e-12).all()


@tries
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5), st.booleans()), min_size=2, max_size=60))
def test_metrics_by_user_add_up(cells) -> None:
    "A metric from sums by user is the metric of the cells; a resample that draws everybody twice changes nothing."
    user, p, y = (np.array(v) for v in zip(*cells, strict=True))
    p, y = p / 5, y.astype(float)
    if y.all() or not y.any(): return

    whole, sums = like_metrics(p, y, user), like_sums(p, y, user)
    users = pd.Index(np.unique(user))
    for name, s in sums.items():
        if np.isnan(whole[name]): assert np.isnan(value_of(s)); continue
        assert abs(value_of(s) - whole[name]) < 1e-9, name
        assert abs(s.counted(users, np.full((1, len(users)), 2.0))[0] - whole[name]) < 1e-6, name


@tries
@given(st.lists(st.lists(st.integers(-1, 11), min_size=3, max_size=3), min_size=1, max_size=8),
       st.lists(st.sampled_from(["", "A", "A|B", "C", "B|C", "(no genres listed)"]), min_size=12, max_size=12))
def test_diversity_is_a_share(lists, genres) -> None:
    "Between 0 and 1, or missing; films without a genre do not count."
    d = diversity(np.array(lists), pd.DataFrame({"genres": genres}))
    assert (np.isnan(d) | (d >= 0) & (d <= 1)).all()
