"""What people bring, and what comes of it: the right ids, titles, times and values, or one sentence that helps.

tests/cases holds small files of our own; inputs made of MovieLens ratings are made here from the bundled data."""
import datetime as dt
import decimal
import json
import tempfile
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saerec.data import (
    InputError,
    Ratings,
    default_threshold,
    like_share_note,
    load_movielens,
    read_ratings,
    split_users,
    write_csr,
)
from saerec.data.exchange import open_rows

CASES = Path(__file__).parent / "cases"
tries = settings(
    max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def base() -> pd.DataFrame:
    "The 150 most active users and the 400 most rated movies: user, movie, rating, timestamp, title."
    r = load_movielens()
    busy, known = (np.argsort(-np.bincount(a), kind="stable")[:n] for a, n in ((r.user, 150), (r.movie, 400)))
    keep = np.isin(r.user, busy) & np.isin(r.movie, known)
    f = r.select(keep).frame()
    return pd.DataFrame(
        {"user": f.user_id, "movie": f.movie_id, "rating": f.rating, "timestamp": r.time[keep], "title": f.title}
    )


def said(source: Any, **options: Any) -> str:
    "The sentence that refuses a source."
    with pytest.raises(InputError) as e: read_ratings(source, **options)
    assert str(e.value).endswith(".") and "\n" not in str(e.value)
    return str(e.value)


def text_file(folder: Path, text: str, name: str = "r.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def ids(r: Ratings) -> tuple[list, list]:
    return r.users.user_id.tolist(), r.movies.movie_id.tolist()


def days(r: Ratings) -> list[str]:
    assert r.time is not None, r.notes
    return pd.to_datetime(r.time, unit="s").strftime("%Y-%m-%d").tolist()


# --- ids ---

def test_leading_zeros_stay(tmp_path: Path) -> None:
    assert ids(read_ratings(CASES / "zeros_collide.csv")) == ([1, 2], ["007", "7"])
    assert ids(read_ratings(text_file(tmp_path, "user,movie,rating\n000004,4.0,3\n000012,10.0,4\n"))) == (
        ["000004", "000012"],
        [4, 10],
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, "1", 2], [1, 2]),
        ([1, "1", "x"], ["1", "x"]),
        ([4.0, 10.0, 4.0], [4, 10]),
        (["4.0", "10", "4"], [4, 10]),
        ([2**63, 1, 1], ["1", str(2**63)]),
        (["123456789012345678901", "5", "5"], ["123456789012345678901", "5"]),
        ([uuid.UUID(int=2), uuid.UUID(int=1), uuid.UUID(int=1)], [str(uuid.UUID(int=1)), str(uuid.UUID(int=2))]),
        ([b"a", "a", b"b"], ["a", "b"]),
        ([decimal.Decimal("1.5"), decimal.Decimal(2), 2], ["1.5", "2"]),
        ([dt.date(2020, 1, 2), dt.date(2020, 1, 1), dt.date(2020, 1, 1)], ["2020-01-01", "2020-01-02"]),
        ([True, False, True], ["False", "True"]),
        (["+4", "4", "4"], ["+4", "4"]),
    ],
)
def test_one_rule_for_ids(values: list, expected: list) -> None:
    r = read_ratings(pd.DataFrame({"user": pd.Series(values, dtype=object), "movie": [1, 2, 3], "rating": [3, 4, 5]}))
    assert r.users.user_id.tolist() == expected
    s = read_ratings(pd.DataFrame({"user": [1, 2, 3], "movie": pd.Series(values, dtype=object), "rating": [3, 4, 5]}))
    assert s.movies.movie_id.tolist() == expected


one_id = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(0, 9),
    st.floats(0, 20),
    st.sampled_from(["1", "1.0", "01", "+1", " 1", "a", "Ä b"]),
    st.text("01a.-", min_size=1, max_size=3),
    st.uuids(),
    st.binary(min_size=1, max_size=3),
    st.decimals(0, 9, places=1),
    st.dates(),
    st.booleans(),
)


@given(users=st.lists(one_id, min_size=4, max_size=8), movies=st.lists(one_id, min_size=4, max_size=8))
@tries
def test_what_is_read_can_be_written_and_joined(users: list, movies: list) -> None:
    "Ids are int64 or text, survive every file of ours, are found again, and lead back to the source."
    n = min(len(users), len(movies))
    df = pd.DataFrame(
        {
            "user": pd.Series(users[:n], dtype=object),
            "movie": pd.Series(movies[:n], dtype=object),
            "rating": np.arange(n) % 5 + 1.0,
        }
    )
    try: r = read_ratings(df, duplicates="latest")
    except InputError: return
    for frame, c in ((r.users, "user_id"), (r.movies, "movie_id")):
        assert frame[c].dtype == np.int64 or isinstance(frame[c].dtype, pd.StringDtype)
        assert frame[c].is_unique
    with tempfile.TemporaryDirectory() as tmp:
        again = open_rows(write_csr(r, Path(tmp) / "r.safetensors"))[2:]
        assert [x.tolist() for x in again] == [r.users.user_id.tolist(), r.movies.movie_id.tolist()]
        pair = pd.DataFrame({"user": r.frame().user_id, "movie": r.frame().movie_id, "rating": r.value})
        pair.to_parquet(Path(tmp) / "r.parquet")
        back = [read_ratings(Path(tmp) / "r.parquet", scale=(0, 9))]
        texts = [str(i) for i in ids(r)[0] + ids(r)[1]]
        if all(t.isprintable() for t in texts):  # bytes that are no text go into Parquet only
            pair.to_csv(Path(tmp) / "r.csv", index=False)
            back.append(read_ratings(Path(tmp) / "r.csv", scale=(0, 9)))
        for one in back: assert ids(one) == ids(r) or any(t != t.strip() for t in texts)
    source = read_ratings(df.drop_duplicates(["user", "movie"]), duplicates="latest")  # the same frame, joined by codes
    assert set(ids(source)[0]) == set(ids(r)[0]) and set(ids(source)[1]) == set(ids(r)[1])


def test_uuids_in_parquet(base: pd.DataFrame, tmp_path: Path) -> None:
    table = base.assign(item_id=[uuid.UUID(int=int(m)).bytes for m in base.movie]).drop(columns="movie")
    table.to_parquet(tmp_path / "r.parquet")
    assert isinstance(read_ratings(tmp_path / "r.parquet").movies.movie_id.dtype, pd.StringDtype)


# --- columns ---

def test_a_name_may_be_the_reviewers(tmp_path: Path) -> None:
    assert read_ratings(CASES / "user_name_and_title.csv").movies.title.tolist() == ["Heat (1995)"]
    r = read_ratings(text_file(tmp_path, "user_id,name,movie_id,rating\n1,Anna,10,4\n2,Bert,10,3\n1,Anna,11,5\n"))
    assert r.movies.title.tolist() == ["movie 10", "movie 11"] and "'name'" in r.notes[0]
    r = read_ratings(
        text_file(tmp_path, "user_id,title,movie_id,rating\n1,Great!,10,4\n2,so so,10,3\n1,ok,11,5\n")
    )  # of reviews
    assert r.movies.title.tolist() == ["movie 10", "movie 11"]
    r = read_ratings(text_file(tmp_path, "user_id,name,movie_id,rating\n1,Heat,10,4\n2,Heat,10,3\n1,Ran,11,5\n"))
    assert r.movies.title.tolist() == ["Heat", "Ran"] and not r.notes


def test_the_year_completes_the_title() -> None:
    assert {"Sabrina (1954)", "Sabrina (1995)", "Heat (1995)"} <= set(
        read_ratings(CASES / "title_year_two.csv").movies.title
    )


def test_movies_that_are_named(base: pd.DataFrame, tmp_path: Path) -> None:
    titles = sorted(set(base.title))
    for table in (
        base.drop(columns="movie"),
        base.assign(movie=base.title).drop(columns="title"),
        base.rename(columns={"title": "item"}).drop(columns="movie"),
    ):
        r = read_ratings(table)
        assert r.movies.title.tolist() == titles == r.movies.movie_id.tolist() and len(r) == len(base)
    r = read_ratings(
        text_file(tmp_path, "user,title,year,rating\n1,Sabrina,1954,4\n1,Sabrina,1995,3\n2,Sabrina,1995,5\n")
    )
    assert r.movies.title.tolist() == ["Sabrina (1954)", "Sabrina (1995)"]
    for movie in ("10", "m1"):  # a year that is of the rating, beside ids
        r = read_ratings(text_file(tmp_path, f"user,movie,rating,year\n1,{movie},4,1999\n2,{movie},3,2001\n"))
        assert [str(i) for i in r.movies.movie_id] == [movie]


def test_headers_of_other_libraries(tmp_path: Path) -> None:
    r = read_ratings(CASES / "amazon_nohead.csv")
    assert len(r) == 2 and r.movies.movie_id.tolist() == ["B00004Y2UT"]
    assert len(read_ratings(CASES / "amazon2023.csv")) == 2
    r = read_ratings(CASES / "rectools.csv")
    assert (r.feedback, r.users.user_id.tolist(), days(r)) == ("implicit", [1, 2], ["2021-09-01", "2021-09-02"])
    r = read_ratings(
        text_file(tmp_path, "B00004Y2UT,A2SUAM1J3GNN3B,5.0,1400457600\nB00004Y2UX,A2SUAM1J3GNN3B,3.0,1400457601\n")
    )  # 2018: the product first
    assert ids(r) == (["A2SUAM1J3GNN3B"], ["B00004Y2UT", "B00004Y2UX"])
    r = read_ratings(
        text_file(
            tmp_path,
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
            "196\t242\t3\t881250949\n186\t302\t3\t891717742\n",
            "x.inter",
        )
    )
    assert ids(r) == ([186, 196], [242, 302]) and days(r)[0] == "1997-12-04"
    r = read_ratings(
        text_file(
            tmp_path,
            '{"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1400457600}\n'
            '{"reviewerID": "A2", "asin": "B1", "overall": 3.0, "unixReviewTime": 1400457600}\n',
            "r.json",
        )
    )
    assert ids(r) == (["A1", "A2"], ["B1"]) and r.value.tolist() == [5, 3]
    r = read_ratings(text_file(tmp_path, "1 10 4\n2 10 3.5\n", "librec.txt"))
    assert ids(r) == ([1, 2], [10]) and r.value.tolist() == [4, 3.5]


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = text_file(tmp_path, "who,what,how\n1,10,4\n2,10,3\n")
    assert "--columns user=" in said(path)
    r = read_ratings(path, columns={"user": "who", "movie": "what", "rating": "how"})
    assert ids(r) == ([1, 2], [10]) and r.value.tolist() == [4, 3]
    assert "no column 'huh'" in said(path, columns={"user": "huh"}) and "no role" in said(path, columns={"usr": "who"})
    assert "--columns rating=how" in said(text_file(tmp_path, "user,movie,how\n1,10,4\n2,10,3\n"))
    five = text_file(tmp_path, "x,4,10,1,978300760\nx,3,10,2,978300761\n")
    assert "--columns user=1" in said(five)
    assert ids(read_ratings(five, columns={"user": "4", "movie": "3", "rating": "2"})) == ([1, 2], [10])


def test_book_crossing_asks_what_0_means() -> None:
    assert "--unrated 0" in said(CASES / "bx.csv")
    r = read_ratings(CASES / "bx.csv", unrated=0)
    assert ids(r) == ([276726], ["0155061224"]) and r.value.tolist() == [5]


# --- not rated, scale, repeats ---

def test_not_rated_is_a_question(base: pd.DataFrame) -> None:
    marked = base.assign(rating=base.rating.where(np.arange(len(base)) % 5 > 1, -1))
    n = int((marked.rating == -1).sum())
    assert f"{n:,} of {len(base):,} ratings are -1" in said(marked) and "--unrated -1" in said(marked)
    r = read_ratings(marked, unrated=-1)
    assert len(r) == len(base) - n and r.value.min() > 0 and f"{n:,} of" in r.notes[0]
    assert read_ratings(marked, scale=(-1, 5)).scale == (-1, 5)
    assert "off the scale" in said(marked, scale=(1, 5))
    for fine in ([0, 1, 1], [-1, 1, 1], [-10.5, 3, 8]):
        read_ratings(pd.DataFrame({"user": [1, 2, 3], "movie": 1, "rating": fine}))


def test_rated_again(base: pd.DataFrame, tmp_path: Path) -> None:
    twice = pd.concat([base, base.head(200)])
    assert "200 ratings are repeated in all (with the same value)" in said(
        twice
    ) and "--duplicates latest, first or mean" in said(twice)
    again = pd.concat([base, base.head(200).assign(rating=0.5, timestamp=base.timestamp.max() + 1)], ignore_index=True)
    assert "200 ratings are repeated in all:" in said(again) and "row 0 and row " in said(again)
    latest, first, mean = (read_ratings(again, duplicates=how) for how in ("latest", "first", "mean"))
    assert (
        len(latest) == len(first) == len(mean) == len(base)
        and "200 ratings are repeated: the latest counts." in latest.notes
    )
    assert (latest.value == 0.5).sum() >= 200 and first.fingerprint(times=False) == read_ratings(base).fingerprint(
        times=False
    )
    assert read_ratings(
        pd.DataFrame({"user": [1, 1], "movie": [2, 2], "rating": [5, 2]}), duplicates="mean"
    ).value.tolist() == [3.5]
    path = tmp_path / "r.csv"
    twice.drop(columns="title").to_csv(path, index=False)
    assert f"line 2 and line {len(base) + 2}" in said(path)


def test_the_threshold_follows_the_scale(base: pd.DataFrame) -> None:
    stars, ten, hundred = (read_ratings(base.assign(rating=base.rating * k)) for k in (1, 2, 20))
    assert [default_threshold(r) for r in (stars, ten, hundred)] == [4, 8, 80]
    assert (
        like_share_note(stars, 4) == ""
        and "96%" in like_share_note(ten, 4)
        and "default for this scale is 8" in like_share_note(ten, 4)
    )


def test_implicit_feedback(base: pd.DataFrame) -> None:
    for table, threshold in ((base.drop(columns="rating"), 1), (base.assign(rating=5), 5), (base.assign(rating=1), 1)):
        r = read_ratings(table)
        assert (r.feedback, default_threshold(r)) == ("implicit", threshold) and "implicit" in r.notes[0]
        assert split_users(r.likes(default_threshold(r)), 10, 10).new_users
    zero_one = read_ratings(base.assign(rating=(base.rating >= 4).astype(int)))
    assert (zero_one.feedback, default_threshold(zero_one)) == ("explicit", 1) and "0 and 1" in zero_one.notes[0]
    seen_again = read_ratings(pd.concat([base, base.head(3)]).drop(columns="rating"))
    assert len(seen_again) == len(base) and "3 ratings are repeated" in seen_again.notes[-1]


def test_counts_and_empty_cells(tmp_path: Path) -> None:
    plays = text_file(tmp_path, "userID\tartistID\tweight\n2\t51\t13883\n2\t52\t11690\n3\t51\t3\n")
    assert (
        "count plays" in read_ratings(plays).notes[0]
        and read_ratings(plays, columns={"rating": ""}).feedback == "implicit"
    )
    gaps = text_file(tmp_path, "# my list\nuser, movie, rating\n1, m1, 4\n1, m2, NULL\n2, m1, 5\n", "g.csv")
    assert "--unrated ''" in said(gaps) and "line 4" in said(gaps)
    assert ids(read_ratings(gaps, unrated="")) == ([1, 2], ["m1"])
    assert "two roles" in said(plays, columns={"user": "userID", "movie": "userID"})
    frame = pd.DataFrame({"user": [1, 2], "movie": [1, 1], "rating": [4, 3]})
    assert read_ratings(frame.set_index("user")).fingerprint() == read_ratings(frame).fingerprint()


# --- times ---

def test_iso_times_with_and_without_a_fraction() -> None:
    r = read_ratings(CASES / "iso_t.csv")
    assert r.time is not None and r.time.tolist() == [1400457600, 1500457600] and not r.notes


@pytest.mark.parametrize(("factor", "word"), [(1000, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")])
def test_times_are_known_by_their_size(base: pd.DataFrame, factor: int, word: str) -> None:
    r, plain = read_ratings(base.assign(timestamp=base.timestamp * factor)), read_ratings(base)
    assert r.fingerprint() == plain.fingerprint() and any(word in o for o in r.notes)


def test_days_as_numbers(base: pd.DataFrame) -> None:
    when = pd.to_datetime(base.timestamp, unit="s").dt.strftime("%Y%m%d").astype(int)
    r = read_ratings(base.assign(timestamp=when))
    assert r.time is not None and (abs(r.time - base.timestamp) < 86400).all() and any("yyyymmdd" in o for o in r.notes)


def test_day_first_where_the_column_shows_it() -> None:
    def read(*when: str) -> Ratings:
        return read_ratings(
            pd.DataFrame({"user": range(len(when)), "movie": 1, "rating": 4 - np.arange(len(when)), "date": when})
        )

    assert days(read("16/08/2001 05:05", "01/02/2015 10:00")) == ["2001-08-16", "2015-02-01"]
    assert days(read("08/16/2001", "01/02/2015")) == ["2001-08-16", "2015-01-02"]
    assert days(read("31.12.99", "01.02.15")) == ["1999-12-31", "2015-02-01"]
    for odd in (
        ("01.02.2015", "03.04.2015"),
        ("2001-08-16", "soon"),
        ("31/12/2001", "12/31/2001"),
        ("2001-02-31", "2001-01-01"),
        ("", "2001-01-01"),
    ):
        r = read(*odd)
        assert r.time is None and len(r.notes) == 1 and "left out" in r.notes[0]


def test_the_fingerprint_covers_times(base: pd.DataFrame) -> None:
    a, b = read_ratings(base), read_ratings(base.assign(timestamp=base.timestamp + 1))
    assert a.fingerprint() != b.fingerprint() and a.fingerprint(times=False) == b.fingerprint(times=False)


# --- text, Excel, JSON ---

def test_windows_1252_and_excel(tmp_path: Path) -> None:
    assert read_ratings(CASES / "cp1252.csv").movies.title.tolist() == ["Schindler’s List – Director’s “Cut” (1993)"]
    assert read_ratings(CASES / "excel_sep.csv").movies.title.tolist() == ["Heat (1995)"]
    r = read_ratings(text_file(tmp_path, "sep=;\nuser;movie;rating\n1;10;4,5\n2;10;3\n"))
    assert r.value.tolist() == [4.5, 3]
    text = "user;title;rating\n1;Amélie;4,5\n2;Amélie;3\n"
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        assert read_ratings(text_file(tmp_path, text, encoding=encoding)).movies.title.tolist() == ["Amélie"]


def test_lines_are_counted_as_an_editor_counts(tmp_path: Path) -> None:
    assert "line 7, column rating: the rating is 'bad'" in said(CASES / "multi_review.csv")
    assert read_ratings(CASES / "multiline_title.csv").movies.title.tolist() == ["Heat (1995)"]
    assert "line 6" in said(text_file(tmp_path, 'user,movie,rating,t\n1,1,3,"a\nb"\n\n1,2,4,x\n1,3,x,y\n'))


def test_excel_and_json(tmp_path: Path) -> None:
    assert "save it as CSV" in said(CASES / "my_ratings.xlsx")
    book = openpyxl.Workbook()
    for row in (
        ["user", "movie", "rating", "date"],
        [1, "007", 4.5, dt.datetime(2020, 1, 31)],
        [2, "7", 3, dt.datetime(2020, 2, 1)],
    ):
        book.active.append(row)
    book.save(tmp_path / "r.xlsx")
    r = read_ratings(tmp_path / "r.xlsx")
    assert ids(r) == ([1, 2], ["007", "7"]) and days(r) == ["2020-01-31", "2020-02-01"] and r.value.tolist() == [4.5, 3]
    text_file(
        tmp_path,
        json.dumps(
            [
                {"user": 1, "movie": {"title": "Heat", "year": 1995}, "rating": 9},
                {"user": 2, "movie": {"title": "Heat", "year": 1995}, "rating": 7},
            ]
        ),
        "r.json",
    )
    assert read_ratings(tmp_path / "r.json").movies.title.tolist() == ["Heat (1995)"]
    for name, text in (("n.json", "[1, 2]"), ("b.json", '[{"user": 1')):
        assert name in said(text_file(tmp_path, text, name))


# --- folders, and files that belong elsewhere ---

def test_kaggles_folder(base: pd.DataFrame, tmp_path: Path) -> None:
    when = pd.to_datetime(base.timestamp, unit="s").dt.strftime("%Y-%m-%d %H:%M:%S")
    table = pd.DataFrame({"userId": base.user, "movieId": base.movie, "rating": base.rating, "timestamp": when})
    films = base[["movie", "title"]].drop_duplicates().set_axis(["movieId", "title"], axis=1).assign(genres="Drama")
    (tmp_path / "k" / "archive").mkdir(parents=True)
    table.to_csv(tmp_path / "k" / "archive" / "rating.csv", index=False)
    films.to_csv(tmp_path / "k" / "archive" / "Movie.csv", index=False)
    with zipfile.ZipFile(tmp_path / "k.zip", "w") as z:
        for f in ("rating.csv", "Movie.csv"): z.write(tmp_path / "k" / "archive" / f, f"archive/{f}")
    for source in ("k", "k.zip"):
        r = read_ratings(tmp_path / source)
        assert r.fingerprint() == read_ratings(base).fingerprint() and set(r.movies.title) == set(base.title)


def test_the_courses_folder(base: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "course" / "ml-100k"
    folder.mkdir(parents=True)
    cols = ["user", "movie", "rating", "timestamp"]
    base[cols].iloc[:100].to_csv(folder / "u1.test", sep="\t", header=False, index=False)
    base[cols].iloc[100:].to_csv(folder / "u1.base", sep="\t", header=False, index=False)
    r = read_ratings(tmp_path / "course")
    assert r.fingerprint() == read_ratings(base).fingerprint()
    base[cols].to_csv(tmp_path / "course" / "ml-1m.csv", index=False)  # a table beside the folder is not asked about
    assert len(read_ratings(tmp_path / "course")) == len(base)
    text_file(tmp_path / "course" / "ml-1m", "1::10::4::978300760\n", "ratings.dat")
    assert "there are ratings in ml-100k and in ml-1m; give one of these folders" in said(tmp_path / "course")


def test_the_netflix_prize(tmp_path: Path) -> None:
    text_file(tmp_path, "1:\n1488844,3,2005-09-06\n822109,5,2005-05-13\n", "n/combined_data_1.txt")
    text_file(tmp_path, "2:\n822109,4,2005-10-19\n", "n/combined_data_2.txt")
    text_file(tmp_path, "1,2003,Dinosaur Planet\n2,2004,Isle of Man TT, The\n", "n/movie_titles.csv", "latin-1")
    r = read_ratings(tmp_path / "n")
    assert ids(r) == ([822109, 1488844], [1, 2]) and r.value.tolist() == [3, 5, 4] and days(r)[0] == "2005-09-06"
    assert r.movies.title.tolist() == ["Dinosaur Planet (2003)", "Isle of Man TT, The (2004)"]


def test_what_belongs_elsewhere(tmp_path: Path) -> None:
    for name in ("lb_ratings.csv", "imdb_ratings.csv", "trakt_ratings_movies.json"):
        assert "one person's export" in said(CASES / name) and "saerec recommend --ratings FILE" in said(CASES / name)
    assert "ratings.csv" in said(CASES / "lb_watched.csv") and "ratings.csv of the same export" in said(
        CASES / "lb_list_v7.csv"
    )
    assert "no ratings in it" in said(tmp_path)
    assert "no column for the" in said(text_file(tmp_path, "user,1,2,3\n7,4,3,5\n8,1,2,3\n"))  # a column for each movie


# --- what is read can be trained, saved, loaded and asked for ---

@pytest.mark.parametrize("kind", ["uuid and 21 digits", "leading zeros and named movies"])
def test_what_is_read_can_be_trained_saved_and_asked_for(base: pd.DataFrame, kind: str, tmp_path: Path) -> None:
    from saerec.recommend import Recommender

    some = base[base.user.isin(base.user.unique()[:60])]
    if kind.startswith("uuid"):
        table = some.assign(user=10**20 + some.user.astype(object), movie=[uuid.UUID(int=int(m)) for m in some.movie])
    else: table = some.assign(user=some.user.astype(str).str.zfill(6), movie=some.title).drop(columns="title")
    r = read_ratings(table)
    quick = {"epochs": 1}
    rec = Recommender.fit(r, say=None, ranker="network", likes_changes=quick, ranking_changes=quick)
    rec.save(tmp_path / "model")
    back = Recommender.load(tmp_path / "model")
    movie, user = r.movies.movie_id.iloc[0], r.users.user_id.iloc[0]
    assert isinstance(movie, str) and isinstance(user, str)
    assert back.movies.movie_id.tolist() == rec.movies.movie_id.tolist()
    top = back.recommend({movie: r.scale[1]}, n=3)
    assert len(top) == 3 and set(top.movie) <= set(table.movie.astype(str))
    assert len(back.recommend(user, n=3)) == 3
    joined = top.merge(table.assign(movie=table.movie.astype(str)), on="movie")
    assert set(joined.movie) == set(top.movie)
