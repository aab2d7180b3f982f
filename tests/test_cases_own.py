"""One person's own files, and titles as people type them: what comes out is right, or one sentence says what helps.

The files in cases/ have the layouts of Letterboxd, IMDb, Trakt and of spreadsheets; what is in them is made up."""
import json
import os
import tempfile
import unicodedata
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saerec.data import InputError, load_movielens
from saerec.recommend.own import OwnRatings, own_ratings, read_own
from saerec.recommend.titles import Title, Titles, TitleWarning

CASES = Path(__file__).parent / "cases"
RATINGS = load_movielens()
MOVIES = RATINGS.movies
TITLES = Titles(MOVIES, np.bincount(RATINGS.movie, minlength=RATINGS.n_movies))
MORE = os.environ.get("SAEREC_EXAMPLES")
tries = settings(max_examples=int(MORE or 150), derandomize=not MORE, deadline=None, database=None)


UNTIL = "This model knows films up to October 2016."


def model(low: float = 0.5, high: float = 5.0, threshold: float = 4.0) -> SimpleNamespace:
    "What is asked of a recommender: movies, titles, scale."
    manifest = SimpleNamespace(scale=(low, high), threshold=threshold)
    people = SimpleNamespace(until=(2016, UNTIL))
    return SimpleNamespace(movies=MOVIES, titles=TITLES, manifest=manifest, people=people)


def read(file: str | Path, *scale: float, stated: tuple[float, float] | None = None) -> OwnRatings:
    return own_ratings(CASES / file, model(*scale), stated)


def stars(own: OwnRatings) -> dict[str, float]:
    return dict(zip(own.found.film, own.found.stars, strict=True))


def said(file: Path, *scale: float) -> str:
    "The sentence with which a file is refused."
    with pytest.raises(InputError) as e: own_ratings(file, model(*scale))
    assert str(file) in str(e.value) and "\n" not in str(e.value)
    return str(e.value).replace(str(file), "FILE")


# --- layouts ---

@pytest.mark.parametrize("file, layout, found, of", [
    ("lb_ratings.csv", "Letterboxd", 39, 40), ("lb_diary.csv", "Letterboxd", 4, 4),
    ("lb_reviews.csv", "Letterboxd", 2, 2),
    ("imdb_ratings.csv", "IMDb", 11, 13), ("imdb_old.csv", "IMDb", 2, 2), ("trakt_ratings_movies.json", "Trakt", 1, 1),
    ("o_excel_cp1252.csv", "title and rating", 5, 5), ("o_excel_sep.csv", "title and rating", 1, 1),
    ("taste/lb_arthouse.csv", "Letterboxd", 32, 40), ("taste/lb_horror.csv", "Letterboxd", 36, 40),
    ("taste/lb_family.csv", "Letterboxd", 36, 40)])
def test_layouts(file: str, layout: str, found: int, of: int) -> None:
    own = read(file)
    assert (own.layout, len(own.found), len(own.found) + len(own.missing)) == (layout, found, of)
    newer = own.missing[own.missing.year >= 2016]
    assert len(own.missing) - len(newer) <= 3  # nearly all that is missing is newer than the data
    assert [o for o in own.notes if "2016 or later" in o][:1] == [
        f"{len(newer)} of those not found are of 2016 or later. {UNTIL}"][:len(newer)]


def test_titles_of_other_places() -> None:
    "F12, R5: articles of other languages, punctuation, parts, remakes and two films of one name and year."
    own = read("lb_ratings.csv")
    assert own.missing.title.tolist() == ["Marvel's The Avengers"]
    assert own.missing.suggestions[0] == ["The Avengers (2012)"]
    films = set(own.found.film)
    assert films >= {"L'Avventura (The Adventure) (1960)", "L'Eclisse (Eclipse) (1962)", "L'Atalante (1934)",
                     "8 1/2 (8½) (1963)", "WALL·E (2008)", "Star Wars: Episode IV - A New Hope (1977)",
                     "Star Wars: Episode V - The Empire Strikes Back (1980)", "(500) Days of Summer (2009)"}
    assert {34048, 3598} <= set(own.found.movie)  # the better known War of the Worlds and Hamlet
    assert sum("best known was taken" in o for o in own.notes) == 2 and any("id:64997" in o for o in own.notes)
    assert all(o.startswith("line ") for o in own.notes) and own.notes[0].split(": ")[1] in str(own)


def test_windows_1252_and_decimal_comma() -> None:
    "F13, R7"
    own = read("o_excel_cp1252.csv")
    assert own.found.title.tolist()[:2] == ["Ocean’s Eleven", "Schindler’s List"]
    assert own.found.stars.tolist() == [4.5, 5, 4, 3, 4]
    assert read("o_excel_sep.csv").found[["line", "stars"]].values.tolist() == [[3, 4.5]]


def test_later_rating_counts() -> None:
    own = read("lb_diary.csv")
    assert stars(own)["Heat (1995)"] == 5 and "1 rated again" in str(own) and "2 without a rating" in str(own)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_mixtures(tmp_path: Path, encoding: str, delimiter: str, end: str) -> None:
    "A spreadsheet's table in any encoding, with any delimiter and line end; blank lines and a cell of two lines count."
    rows = [["Title", "Year", "Rating", "Review"], ["Amélie", "2001", "4,5", "très\nbien"], [],
            ["Léon", "1994", "3", ""],
            ["Good, the Bad and the Ugly, The", "1966", "5", 'a "classic"']]
    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"' if set(cell) & set(f'\n"{delimiter}') else cell

    text = "".join(delimiter.join(map(quoted, row)) + "\n" for row in rows)
    (tmp_path / "mine.csv").write_bytes(text.replace("\n", end).encode(encoding))
    own = own_ratings(tmp_path / "mine.csv", model())
    assert own.found[["line", "stars"]].values.tolist() == [[2, 4.5], [5, 3], [6, 5]]
    text = text.replace("5" + delimiter + '"a', "x" + delimiter + '"a')
    (tmp_path / "mine.csv").write_bytes(text.replace("\n", end).encode(encoding))
    assert said(tmp_path / "mine.csv").startswith("FILE, line 6, column rating: the rating is 'x'")


@pytest.mark.parametrize("days, heat", [
    (("2024-02-10", "2023-01-12"), 2.5), (("10.02.2024", "12.01.2023"), 2.5), (("2/10/2024", "1/20/2023"), 2.5),
    (("20/2/2024", "12/1/2023"), 2.5), (("Sat Feb 10 00:00:00 2024", "Thu Jan 12 00:00:00 2023"), 2.5),
    (("2/10/2024", "1/12/2023"), 1),  # neither day-first nor month-first for sure
    (("", "2023-01-12"), 1)])  # a day missing
def test_newest_first_as_spreadsheets_leave_it(tmp_path: Path, days: tuple[str, str], heat: float) -> None:
    "The later day counts where days can be read without doubt, else the later line; decimal commas, Windows-1252."
    file = tmp_path / "imdb.csv"
    lines = [f"tt1;{mark};{day};Heat;Film;1995" for mark, day in zip((5, 2), days, strict=True)]
    lines = ["Const;Your Rating;Date Rated;Title;Title Type;Year", *lines, "tt2;8,0;;Amélie;Movie;2001"]
    if days[0] and days[1]: lines[-1] = f"tt2;8,0;{days[0]};Amélie;Movie;2001"
    file.write_bytes("\r\n".join(lines).encode("cp1252"))
    found = stars(own_ratings(file, model()))
    assert (found["Heat (1995)"], found["Amelie (Le Fabuleux destin d'Amélie Poulain) (2001)"]) == (heat, 4)


# --- the file's own scale ---

def test_own_scale_decides_what_a_like_is() -> None:
    "F11: on a model of 0 and 1, four and a half stars of five are a like."
    assert stars(read("lb_diary.csv", 0, 1, 1)) == {
        "Fargo (1996)": 1, "Heat (1995)": 1, "The Matrix (1999)": 1, "Pulp Fiction (1994)": 1}
    own = read("imdb_ratings.csv", 0, 1, 1)
    rows = read_own(CASES / "imdb_ratings.csv").set_index("line").mark
    assert own.found.stars.tolist() == [float(rows[line] >= 8) for line in own.found.line]
    liked = read("imdb_ratings.csv", 1, 1, 1)
    assert set(liked.found.stars) == {1} and "which a model of likes alone cannot use" in str(liked)
    assert stars(read("o_excel_sep.csv", 0, 1, 1)) == {"Heat (1995)": 1}


@pytest.mark.parametrize("low, high, threshold, heat, matrix", [
    (0.5, 5, 4, 3.5, 5), (1, 5, 4, 3.5, 5), (1, 10, 8, 7, 10), (0, 10, 8, 7, 10), (0, 100, 80, 70, 100),
    (-1, 1, 1, 0, 1)])
def test_scales_of_models(
    tmp_path: Path, low: float, high: float, threshold: float, heat: float, matrix: float) -> None:
    "Seven of ten and ten of ten, as models of other scales have them."
    file = tmp_path / "imdb.csv"
    file.write_text("Const,Your Rating,Title,Year\nt1,7,Heat,1995\nt2,10,The Matrix,1999\n")
    assert list(stars(own_ratings(file, model(low, high, threshold))).values()) == [heat, matrix]


def test_stated_scale(tmp_path: Path) -> None:
    "R4: `--scale 1 10`, and the question where the scale is not known."
    file = tmp_path / "of_ten.csv"
    file.write_text("title,rating\nHeat (1995),4\nFargo (1996),9\n")
    assert said(file).startswith("FILE, line 3, column rating: the rating '9' is not on the model's scale, 0.5 to 5")
    assert said(file).endswith("--scale 1 10.")
    assert own_ratings(file, model(), (1, 10)).found.stars.tolist() == [2, 4.5]
    with pytest.raises(InputError, match="line 3, column rating: the rating is '9'; its scale is 1 to 5"):
        own_ratings(file, model(), (1, 5))
    for wrong in ((10, 1), (1, 1), (float("nan"), 5), (0, float("inf"))):
        with pytest.raises(InputError, match="give the lowest rating, then the best"): own_ratings(file, model(), wrong)


def test_zero_and_one_on_a_model_of_stars(tmp_path: Path) -> None:
    file = tmp_path / "liked.csv"
    file.write_text("title,rating\nHeat,1\nFargo,0\nAladdin,1\n")
    own = own_ratings(file, model())
    assert own.found.stars.tolist() == [5, 0.5, 5] and "read as not liked and liked" in str(own)
    file.write_text("title,rating\nHeat,1\nFargo,1\nAladdin,1\n")
    assert "--scale 0 1" in said(file)
    assert own_ratings(file, model(), (0, 1)).found.stars.tolist() == [5, 5, 5]
    assert own_ratings(file, model(), (0.5, 5)).found.stars.tolist() == [1, 1, 1]


# --- other files ---

@pytest.mark.parametrize("file, helps", [
    ("lb_watched.csv", "give ratings.csv of the same export"),
    ("lb_list_v7.csv", "give ratings.csv of the same export"),
    ("my_ratings.xlsx", "save it as CSV")])
def test_other_files_of_an_export(file: str, helps: str) -> None:
    "R4, R6"
    assert helps in said(CASES / file)


def test_other_files_made_here(tmp_path: Path) -> None:
    def sentence(text: str, name: str = "f.csv") -> str:
        (tmp_path / name).write_text(text)
        return said(tmp_path / name)

    assert "give the export of Your ratings" in sentence("Position,Const,Title,Year\n1,tt1,Heat,1995\n")
    watched = json.dumps([{"plays": 1, "last_watched_at": "2024-01-01", "movie": {"title": "Heat", "year": 1995}}])
    assert "give ratings-movies.json of the same export" in sentence(watched, "watched.json")
    assert "no column for the rating" in sentence("title,year\nHeat,1995\n")
    assert "saerec train --data FILE" in sentence("userId,title,rating\n1,Heat,4\n2,Heat,3\n")
    assert "title,year,rating" in sentence("Heat,4\nFargo,3\n")
    assert "is no year" in sentence("title,year,rating\nHeat,4\n")
    assert "it holds no rating" in sentence("title,rating\nHeat,\n")
    assert "is empty" in sentence("")


def test_zip_folder_and_workbook(tmp_path: Path) -> None:
    "What an export comes as; and the same table in a workbook, with numbers and dates as such."
    whole = stars(read("lb_ratings.csv"))
    with zipfile.ZipFile(tmp_path / "letterboxd.zip", "w") as z:
        for name in ("watched.csv", "ratings.csv", "deleted/ratings.csv", "lists/best.csv"):
            z.write(CASES / ("lb_ratings.csv" if name == "ratings.csv" else "lb_watched.csv"), name)
    assert stars(own_ratings(tmp_path / "letterboxd.zip", model())) == whole
    with zipfile.ZipFile(tmp_path / "letterboxd.zip") as z: z.extractall(tmp_path / "unpacked")
    assert stars(own_ratings(tmp_path / "unpacked", model())) == whole

    with zipfile.ZipFile(tmp_path / "two.zip", "w") as z:
        for name in ("a.csv", "b.csv"): z.write(CASES / "lb_ratings.csv", name)
    assert "cannot be told (a.csv, b.csv)" in said(tmp_path / "two.zip")
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and no more")
    assert "no readable zip" in said(tmp_path / "broken.zip")

    book = openpyxl.Workbook()
    table = pd.read_csv(CASES / "lb_ratings.csv", parse_dates=["Date"])
    for row in [list(table.columns), *table.astype(object).values.tolist()]: book.active.append(row)
    book.save(tmp_path / "ratings.xlsx")
    assert stars(own_ratings(tmp_path / "ratings.xlsx", model())) == whole
    book = openpyxl.Workbook()
    for row in (["Movie", "Stars"], [300, 4.5], ["9 (2009)", 3]): book.active.append(row)
    book.save(tmp_path / "numbers.xlsx")
    assert stars(own_ratings(tmp_path / "numbers.xlsx", model())) == {"300 (2007)": 4.5, "9 (2009)": 3}


def test_trakt_with_shows(tmp_path: Path) -> None:
    heat = {"title": "Heat", "year": 1995, "ids": {"trakt": 1}}
    fargo = {"title": "Fargo", "year": 2014, "ids": {"trakt": 2}}
    items = [{"rated_at": "2024-02-01", "rating": 9, "type": "movie", "movie": heat},
             {"rated_at": "2024-03-01", "rating": 5, "type": "movie", "movie": heat},
             {"rated_at": "2024-01-01", "rating": 8, "type": "show", "show": fargo},
             {"rated_at": "2024-01-01", "rating": 8, "type": "episode", "episode": {"title": "Pilot", "season": 1}}]
    (tmp_path / "ratings.json").write_text(json.dumps(items))
    own = own_ratings(tmp_path / "ratings.json", model())
    assert stars(own) == {"Heat (1995)": 2.5} and own.skipped["series, episodes and games"] == 2


# --- titles ---

def without_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def spoken(title: str) -> str:
    "With the article in front, made here in another way."
    name, year = Title(title).name, Title(title).year
    head, comma, last = name.rpartition(", ")
    if comma and last in "The A An La Le Les L' El Der Die Das Il I Lo En Det".split():
        name = f"{last}{head}" if last == "L'" else f"{last} {head}"
    return f"{name} ({year})" if year else name


SPELLINGS = {
    "as it is": str, "lower case": str.lower, "upper case": str.upper, "no accents": without_accents, "spoken": spoken,
    "decomposed": lambda t: unicodedata.normalize("NFD", t), "curly": lambda t: t.replace("'", "’"),
    "wide": lambda t: t.replace(" ", "  "),
    "no brackets": lambda t: t.replace("(", "").replace(")", "") if t.count("(") == 1 else t,
    "square": lambda t: f"{Title(t).name}, [{Title(t).year}]" if Title(t).year else t,
    "no punctuation": lambda t: spoken(t).translate(str.maketrans(".,:;!?-·*", " " * 9)),
    "and": lambda t: t.replace("&", "and")}


@tries
@given(st.integers(0, len(MOVIES) - 1), st.lists(st.sampled_from(sorted(SPELLINGS)), min_size=1, max_size=3))
def test_titles_find_themselves(code: int, spellings: list[str]) -> None:
    title = typed = MOVIES.title[code]
    for o in spellings: typed = SPELLINGS[o](typed)
    found, note = TITLES.look_up(typed)
    assert found == code or (MOVIES.title[found] == title and "best known" in note), (typed, MOVIES.title[found])


@tries
@given(st.integers(0, len(MOVIES) - 1))
def test_other_titles_find_the_movie(code: int) -> None:
    "What stands in brackets, with the year, is that movie, or one of the same year that has it too."
    title = Title(MOVIES.title[code])
    for o in title.others:
        codes, _ = TITLES.match([o.name], title.year)
        assert code in codes or TITLES.index.titles[codes[0]].year == title.year


@tries
@given(st.text(max_size=40) | st.builds(lambda t, n: t[:n], st.sampled_from(MOVIES.title.tolist()), st.integers(1, 40)))
def test_any_text_is_found_or_refused_in_one_sentence(text: str) -> None:
    codes = TITLES.search(text)
    assert len(codes) == len(set(codes)) <= 6 and all(0 <= c < len(MOVIES) for c in codes)
    try: code, note = TITLES.look_up(text)
    except InputError as e: assert "\n" not in str(e)
    else: assert 0 <= code < len(MOVIES) and "\n" not in note


@pytest.mark.parametrize("typed, title, sentence", [
    ("2001", "2001: A Space Odyssey (1968)", "with this id is 'Lethal Weapon 2 (1989)', given as id:2001"),  # R12
    ("id:2001", "Lethal Weapon 2 (1989)", ""), ("318", "The Shawshank Redemption (1994)", "taken as the id"),
    ("300", "300 (2007)", ""), ("1408", "1408 (2007)", ""), ("1", "Toy Story (1995)", "taken as the id"),
    ("Heat (1996)", "Heat (1995)", "'Heat (1995)' was taken"), ("heat 1994", "Heat (1995)", "There is no 'heat 1994'"),
    ("Heat (1986)", "Heat (1995)", "'Heat (1995)' was taken"),
    ("Shawshank", "The Shawshank Redemption (1994)", "was taken for"),
    ("Birdman", "Birdman: Or (The Unexpected Virtue of Ignorance) (2014)", "was taken for"),
    ("The Empire Strikes Back", "Star Wars: Episode V - The Empire Strikes Back (1980)", "was taken for"),
    ("E.T.", "E.T. the Extra-Terrestrial (1982)", "was taken for"),
    ("L’Avventura", "L'Avventura (The Adventure) (1960)", ""),
    ("avventura, l'", "L'Avventura (The Adventure) (1960)", ""),
    ("Det sjunde inseglet", "The Seventh Seal (Det Sjunde inseglet) (1957)", ""), ("walle", "WALL·E (2008)", ""),
    ("Fem benspaend", "The Five Obstructions (De Fem benspænd) (2003)", ""), ("8½", "8 1/2 (8½) (1963)", ""),
    ("Blechtrommel", "The Tin Drum (Die Blechtrommel) (1979)", ""), ("matrix the", "The Matrix (1999)", ""),
    ("Godfather Part 2", "The Godfather: Part II (1974)", ""),
    ("Three Colours: Red", "Three Colors: Red (Trois couleurs: Rouge) (1994)", "")])
def test_typed(typed: str, title: str, sentence: str) -> None:
    code, note = TITLES.look_up(typed)
    assert TITLES.titles[code] == title and sentence in note and bool(note) == bool(sentence)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert TITLES.find(typed) == code
    assert [str(w.message) for w in caught if w.category is TitleWarning] == ([note] if note else [])


@pytest.mark.parametrize("typed, helps", [
    ("Sabrina", "ambiguous: 'Sabrina (1995)' (id 7); 'Sabrina (1954)' (id 915)"),
    ("Star Wars", "did you mean 'Star Wars: Episode IV - A New Hope (1977)'"),
    ("12", "id:12, which is 'Dracula: Dead and Loving It (1995)'"),
    ("Toy Storry", "did you mean 'Toy Story (1995)'"), ("Parasite (2019)", "'Parasite (1982)'"),
    ("id:0", "no movie with the id 0"),
    ("Hard", "There is no movie 'Hard'"), ("", "There is no movie ''")])
def test_asked_back(typed: str, helps: str) -> None:
    with pytest.raises(InputError) as e: TITLES.find(typed)
    assert helps in str(e.value)


def test_two_movies_of_one_title_and_year() -> None:
    "R5: the better known is taken where ratings say which that is; else it is a question."
    movies = pd.DataFrame({"movie_id": [3, 5, 8], "title": ["Emma (1996)", "Emma (1996)", "Heat (1995)"]})
    for popularity, code in (([9, 2, 0], 0), ([2, 9, 0], 1)):
        found, note = Titles(movies, np.array(popularity)).look_up("emma")
        assert found == code and "id:3" in note and "id:5" in note
    for unknown in (None, np.array([4, 4, 4])):
        with pytest.raises(InputError) as e: Titles(movies, unknown).find("Emma")
        assert "'Emma (1996)' (id 3); 'Emma (1996)' (id 5)" in str(e.value)


def test_data_without_titles() -> None:
    "Where titles are made of ids, an id as text is what is expected; ids of text are found as they are."
    for ids in ([4, 17, 2001], ["0017", "b0", "9f3c"]):
        titles = Titles(pd.DataFrame({"movie_id": ids, "title": [f"movie {i}" for i in ids]}))
        for code, i in enumerate(ids):
            assert titles.look_up(str(i)) == titles.look_up(f"id:{i}") == titles.look_up(f"movie {i}") == (code, "")
            assert titles.look_up(titles.name_of(code)) == (code, "") and titles.name_of(code) == f"id:{i}"


def test_search_lists_the_best_known_first() -> None:
    def listed(typed: str, n: int = 3) -> list[str]: return [TITLES.titles[c] for c in TITLES.search(typed, n)]
    assert listed("shining") == ["The Shining (1980)", "Shining Through (1992)"]
    assert listed("godfather", 2) == ["The Godfather (1972)", "The Godfather: Part II (1974)"]
    assert listed("heat 1995") == ["Heat (1995)"] and listed("pulp fcition")[0] == "Pulp Fiction (1994)"
    assert listed("rings lord", 1) == ["The Lord of the Rings: The Fellowship of the Ring (2001)"]
    assert listed("") == [] and listed("qqqqqqq") == []


EXPORTS = [(CASES / o).read_bytes()
           for o in ("lb_reviews.csv", "imdb_old.csv", "trakt_ratings_movies.json", "o_excel_sep.csv")]


CHANGES = st.lists(st.tuples(st.integers(0, 1000), st.binary(max_size=3)), max_size=4)


@settings(tries, max_examples=int(MORE or 40))
@given(st.sampled_from(EXPORTS), CHANGES, st.integers(0, 1000))
def test_damaged_files_are_read_or_refused(data: bytes, changes: list[tuple[int, bytes]], end: int) -> None:
    for at, new in changes: data = data[:at % len(data)] + new + data[at % len(data) + len(new):]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine"
        path.write_bytes(data if end > len(data) else data[:end])
        try: own = own_ratings(path, model())
        except InputError as e: assert "\n" not in str(e) and str(path) in str(e)
        else: assert len(own.found) and own.found.stars.between(0.5, 5).all()
