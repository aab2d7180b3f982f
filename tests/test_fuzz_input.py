"""Wild files, titles and command lines: each is read rightly, or refused with one sentence; nothing else happens to the disk, and memory stays bounded.

Some hundred inputs in the default run; ten thousand with --slow, and as many that atheris breeds, where it is installed.
SAEREC_FUZZ_SEED=7 pytest tests/test_fuzz_input.py --slow   tries others."""
import bz2
import contextlib
import gzip
import importlib.util
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_artefacts import sign
from test_properties import check_sentence, check_valid, fewer

from saerec.cli import main
from saerec.data import InputError, Ratings, load_movielens, read_ratings
from saerec.recommend import Recommender, fit_recommender

ROOT = Path(__file__).resolve().parents[1]
SEED = int(os.environ.get("SAEREC_FUZZ_SEED", "0"))
pytestmark = pytest.mark.filterwarnings("ignore")  # pandas warns about odd cells; only the outcome counts here
Rows = list[list[str]]
Table = set[tuple[int, int, float]]

# --- files ---

ODD = ["", " ", "nan", "NaN", "inf", "-inf", "1e400", "-1", "0", "9" * 400, "1e39", "4,5", "4.5.6", "0x1F", "\0", "1\0", "٣", "½", "2001-02-03", "2001-13-45", "None", "true", '"', '"4', "4\n5", "'", "#", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
       "\u202e5", "😀", "é", "x" * 3000, "-9223372036854775809", "18446744073709551616", "1_000", "+4", "４"]


def cells(rng: random.Random) -> Rows:
    "Ratings without a fault, as text."
    pairs = rng.sample([(u, m) for u in range(1, 6) for m in range(1, 6)], rng.randint(1, 12))
    times = rng.random() < 0.5
    return [[str(u), str(m), rng.choice(["1", "2.5", "4.0", "5"]), *([str(rng.randint(0, 2 * 10**9))] * times)] for u, m in pairs]


def spoil_cells(rng: random.Random, rows: Rows) -> None:
    "One fault of the table."
    row = rng.choice(rows)
    match rng.randrange(6):
        case 0 if row: row[rng.randrange(len(row))] = rng.choice(ODD)
        case 1: row.append(rng.choice(["7", "", rng.choice(ODD)]))
        case 2 if row: row.pop()
        case 3: rows.append(list(row))
        case 4:
            k = rng.randrange(4)
            for r in rows:
                if k < len(r): r[k] = ""
        case _: rows.insert(rng.randrange(len(rows) + 1), [rng.choice(ODD) for _ in range(rng.randrange(6))])


def spoil_bytes(rng: random.Random, data: bytes) -> bytes:
    "One fault of the file."
    i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    match rng.randrange(5):
        case 0: return data[:i]
        case 1: return data[:i] + data[j:]
        case 2: return data[:i] + rng.choice([b"\0", b"\xff\xfe", b"\r", b'"', b"\x1a", b";", b"\t", b"\xef\xbb\xbf", rng.randbytes(8)]) + data[i:]
        case 3: return bytes(b ^ (1 << rng.randrange(8)) if k == i else b for k, b in enumerate(data))
        case _: return data[:i] + data[i:j] * rng.randint(2, 50) + data[j:]


def text_of(rng: random.Random, rows: Rows, header: bool, sep: str) -> bytes:
    end, encoding = rng.choice(["\n", "\n", "\r\n", "\r", "\n\n"]), rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"])
    names = rng.choice([["user", "movie", "rating", "timestamp"], ["userId", "movieId", "rating", "timestamp"], [" User_ID", "item", "STARS ", "time"]])
    lines = ([sep.join(names[:len(rows[0]) if rows else 3])] if header else []) + [sep.join(r) for r in rows]
    return (end.join(lines) + rng.choice(["", end])).encode(encoding, "replace")


def write_wild(rng: random.Random, folder: Path) -> tuple[Path, Table | None]:  # what to read; what has to be found, if that is known
    "A file, folder, archive or worse."
    rows = cells(rng)
    wanted: Table | None = {(int(r[0]), int(r[1]), float(r[2])) for r in rows}
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        spoil_cells(rng, rows)
        wanted = None
    sep, header = rng.choice([",", ",", ";", "\t", "::", "|"]), rng.random() < 0.7
    data = text_of(rng, rows, header, sep)
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        data, wanted = spoil_bytes(rng, data), None
    kind = rng.choice(["csv"] * 6 + ["folder", "u.data", "zip", "zip", "deep zip", "outside", "torn zip", "gz", "bz2", "parquet", "text as parquet", "text as zip", "link", "loop", "folder.csv", "pipe", "locked", "empty", "random"])
    path = folder / "r.csv"
    if kind in ("zip", "deep zip", "outside", "torn zip", "locked"):
        name = {"deep zip": "a/b/ratings.csv", "outside": rng.choice(["../ratings.csv", "/ratings.csv", "../../../../ratings.csv", "C:\\ratings.csv"])}.get(kind, "ml/ratings.csv")
        with zipfile.ZipFile(path := folder / "r.zip", "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])) as z: z.writestr(name, data)
        packed = path.read_bytes()
        if kind == "torn zip": path.write_bytes(spoil_bytes(rng, packed))
        if kind == "locked": path.write_bytes(packed.replace(b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0").replace(b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\1\0"))
        return path, wanted if kind in ("zip", "deep zip") else None
    if kind in ("folder", "u.data"):
        (path := folder / "ml").mkdir()
        (path / ("u.data" if kind == "u.data" else "ratings.csv")).write_bytes(data)
        if rng.random() < 0.5: (path / ("u.item" if kind == "u.data" else "movies.csv")).write_bytes(spoil_bytes(rng, rng.choice([b"1|Heat (1995)|||\n2|Ran\n", b"movieId,title,genres\n1,Heat (1995),Crime\n", data])))
        return path, None
    if kind == "pipe" and hasattr(os, "mkfifo"): os.mkfifo(path)
    elif kind == "loop": path.symlink_to(path)
    elif kind == "folder.csv": path.mkdir()
    elif kind == "link":
        (folder / "target").write_bytes(data)
        path.symlink_to(folder / "target")
        return path, wanted
    elif kind == "parquet":
        try: pd.DataFrame(rows).set_axis(["user", "movie", "rating", "timestamp", *map(str, range(9))][:max(map(len, rows), default=0)], axis=1).to_parquet(path := folder / "r.parquet")
        except (ValueError, OSError): path.write_bytes(data)
        if rng.random() < 0.3: path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    elif kind in ("gz", "bz2"): (path := folder / f"r.csv.{kind}").write_bytes((gzip if kind == "gz" else bz2).compress(data))
    elif kind.startswith("text as"): (path := folder / f"r.{kind[8:]}").write_bytes(data)
    else:
        path.write_bytes(b"" if kind == "empty" else rng.randbytes(rng.randrange(300)) if kind == "random" else data)
        if kind == "csv": return path, wanted
    return path, None


def look(folder: Path) -> dict[str, object]:
    "What is in a folder, byte for byte."
    return {str(f.relative_to(folder)): f.read_bytes() if f.is_file() else f.is_symlink() for f in sorted(folder.rglob("*"))}


def read_wild(n: int, folder: Path) -> Counter[str]:
    outcome: Counter[str] = Counter()
    for k in range(n):
        rng = random.Random(f"{SEED} {k}")
        (place := folder / str(k)).mkdir()
        path, wanted = write_wild(rng, place)
        before = look(place)
        try: r = read_ratings(path)
        except InputError as e:
            check_sentence(e, path.name)
            assert wanted is None, f"input {k} has no fault, and is refused: {e}"
            outcome["refused"] += 1
        except Exception as e: raise AssertionError(f"input {k}, {path}: {type(e).__name__}: {e}") from e
        else:
            check_valid(r)
            if wanted is not None: assert found(r) == wanted, f"input {k}, {path}: read as other ratings"
            outcome["read" if wanted is None else "read, and known to be right"] += 1
        assert look(place) == before, f"input {k}: reading changed the disk"
        if k % 100 == 99:
            for old in sorted(folder.rglob("*"), reverse=True): old.rmdir() if old.is_dir() and not old.is_symlink() else old.unlink()
    return outcome


def found(r: Ratings) -> Table:
    f = r.frame()
    return set(zip(f.user_id.astype(int), f.movie_id.astype(int), f.rating.astype(float), strict=True))


@pytest.mark.parametrize("n", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_wild_files(n: int, tmp_path: Path, note: Callable[[str], None]) -> None:
    outcome = read_wild(n, tmp_path)
    assert all(outcome[k] > n / 20 for k in ("refused", "read", "read, and known to be right")), "the inputs are too tame or too wild to mean anything"
    note(f"{n:,} wild files: " + ", ".join(f"{v:,} {k}" for k, v in outcome.items()))


@pytest.mark.parametrize("name", ["../ratings.csv", "../../ratings.csv", "a/../../ratings.csv", "{}/absolute/ratings.csv", "..\\ratings.csv"])
def test_names_that_lead_outside(name: str, tmp_path: Path) -> None:
    "A zip is read where it lies, and no name in it leads anywhere."
    (tmp_path / "a" / "b").mkdir(parents=True)
    with zipfile.ZipFile(path := tmp_path / "a" / "b" / "r.zip", "w") as z: z.writestr(name.format(tmp_path), "userId,movieId,rating\n1,1,4\n")
    before = look(tmp_path)
    with contextlib.suppress(InputError): assert found(read_ratings(path)) == {(1, 1, 4.0)}
    assert look(tmp_path) == before


BOMB = """
import resource, sys
import pyarrow.parquet
from saerec.data import InputError, read_ratings
from saerec.recommend import Recommender
pyarrow.set_cpu_count(1), pyarrow.set_io_thread_count(1)
try: read_ratings(sys.argv[2])  # whatever is loaded once is loaded now
except InputError as e: print(e)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]), -1))
for path in sys.argv[2:]:
    try: (Recommender.load if path.endswith("model") else read_ratings)(path)
    except InputError as e: print(e)
"""


def defuse(memory: int, *bombs: Path) -> list[str]:
    "What is said of each file by a process that gets so many bytes more than it has."
    p = subprocess.run([sys.executable, "-c", BOMB, str(memory), *map(str, bombs)], capture_output=True, text=True, timeout=240, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "1"})
    assert (p.returncode, p.stderr) == (0, ""), p.stderr
    told = p.stdout.splitlines()[1:]
    assert len(told) == len(bombs) and all(b.name in line for b, line in zip(bombs, told, strict=True)), told
    return told


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory is set the way of Linux")


@pytest.mark.slow
@linux
def test_zip_bomb(tmp_path: Path) -> None:
    "A zip of some kilobytes that would unpack to half a gigabyte, and one that tells a smaller size: refused within 128 MB."
    with zipfile.ZipFile(bomb := tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as z, z.open("ml/ratings.csv", "w") as f:
        f.write(b"userId,movieId,rating\n1,1,4\n")
        for _ in range(512): f.write(b"\n" * 2**20)
    with zipfile.ZipFile(bomb) as z: size = z.infolist()[0].file_size
    (lie := tmp_path / "lie.zip").write_bytes(bomb.read_bytes().replace(size.to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    told = defuse(2**27, bomb, lie)
    assert "which no ratings do" in told[0] and "no readable zip" in told[1], told


def swapped(data: bytes, old: int, new: int) -> bytes:
    "Another number in the footer of a Parquet file, where numbers stand in zigzag, seven bits a byte, and have to keep their length."
    def thrift(n: int) -> bytes: return bytes((n << 1 >> s & 127) | 128 * (n << 1 >> s + 7 > 0) for s in range(0, (n << 1).bit_length(), 7))
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    assert len(thrift(old)) == len(thrift(new)) and thrift(old) in data[footer:]
    return data[:footer] + data[footer:].replace(thrift(old), thrift(new))


@pytest.mark.slow
@linux
def test_parquet_bomb(model: Path, tmp_path: Path) -> None:
    "Kilobytes that would become a gigabyte, and others that say less, or more, than they hold: one sentence each, within 512 MB."
    def write(name: str, **table: object) -> Path:
        pq.write_table(pa.table(table), path := tmp_path / f"{name}.parquet", compression="zstd", data_page_size=2**30, row_group_size=2**30, write_statistics=False)
        return path
    def lie(name: str, true: Path, old: int, new: int) -> Path:
        (path := tmp_path / f"{name}.parquet").write_bytes(swapped(true.read_bytes(), old, new))
        return path
    def equal(n: int) -> dict[str, np.ndarray]: return {"user": np.ones(n, np.int64), "movie": np.ones(n, np.int64), "rating": np.full(n, 2.5)}
    def long(n: int, length: int) -> pa.Array: return pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), ["x" * length])
    many, some = 2**25 + 1, 2**20 + 1
    rows, million = write("rows", **equal(many)), write("million", **equal(some))
    text = write("text", user=np.arange(20_000), movie=np.arange(20_000), rating=np.ones(20_000), title=long(20_000, 60_000))
    title = write("title", user=[1], movie=[1], rating=[5.0], title=["x" * (2**27 - 1000)])
    forged = Path(shutil.copytree(model, tmp_path / "model"))
    movies = pd.read_parquet(forged / "movies.parquet")
    pq.write_table(pa.table({c: pa.array(movies[c]) for c in movies} | {"title": long(len(movies), 2**31 // len(movies))}), forged / "movies.parquet", compression="zstd", store_schema=False)
    sign(forged)
    told = defuse(2**29, rows, text, lie("more", million, some, 2**27 - 1), lie("fewer", rows, many, some), lie("page", title, pq.read_metadata(title).row_group(0).column(3).total_uncompressed_size, 2**20 + 7), forged)
    assert all("which no ratings do" in told[k] for k in (0, 1, 2, 5)), told
    assert "rated movie 1 twice" in told[3] and "has a page of 134," in told[4] and "movies.parquet" in told[5], told
    assert max((tmp_path / f"{k}.parquet").stat().st_size for k in ("rows", "text", "more", "fewer", "page")) < 300_000


# --- titles and command lines ---

@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A small recommender, saved."
    r = load_movielens()
    r = r.select(r.user < 60)
    r = r.only_movies(np.flatnonzero(np.bincount(r.movie, minlength=r.n_movies) >= 5))
    few = {"epochs": 1}
    return fit_recommender(r, n_held=8, say=None, likes_changes=few, ranking_changes=few, ranker="network").save(tmp_path_factory.mktemp("model") / "model")


ALPHABET = ["a", "The ", "Heat", "Toy Story", "(1995)", " (", ")", ",", "=", "\0", "\n", "\t", "\ud800", "\udcff", "\u202e", "\u200f", "\ufeff", "😀", "👩\u200d👩\u200d👧", "é", "e\u0301", "ﬁ", "İ", "ß", "日本", "٣", "1", "9" * 30, "-1", "1e400", "nan", "*", "[", "\\", "'", '"', "{0}", "%s", "x" * 20_000]


def wild_title(rng: random.Random) -> str:
    return "".join(rng.choice(ALPHABET) for _ in range(rng.choice([0, 1, 1, 2, 3, 8])))


Ask = Callable[[Recommender, Any], pd.DataFrame]
ASKS: list[Ask] = [lambda rec, t: rec.recommend({t: 4.0}, n=3), lambda rec, t: rec.similar(t, n=3), lambda rec, t: rec.explain({"Fargo (1996)": 4.0}, t), lambda rec, t: rec.recommend({"Fargo (1996)": 4.0}, exclude=[t], n=3),
                   lambda rec, t: rec.recommend({"Fargo (1996)": t}, n=3), lambda rec, t: rec.recommend(t, n=3), lambda rec, t: rec.recommend({"Fargo (1996)": 4.0}, genres=[str(t)], n=3)]
MODELS: dict[Path, Recommender] = {}


def answered(rec: Recommender, ask: Ask, title: object) -> bool:
    "Whether something sane is answered; if not, one sentence says why."
    try: table = ask(rec, title)
    except InputError as e:
        assert str(e).isprintable() and len(str(e)) <= 500 and str(e).endswith((".", "?")), f"{title!r}: {e}"
        return False
    assert set(table.title) <= set(rec.titles.titles) and np.isfinite(table.select_dtypes("number").to_numpy()).all()
    return True


@pytest.mark.parametrize("n", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_wild_titles(n: int, model: Path) -> None:
    rec, rng = Recommender.load(model), random.Random(SEED)
    outcome: Counter[bool] = Counter()
    for _ in range(n):
        title: object = rng.choice([wild_title(rng), wild_title(rng), rng.choice(rec.titles.titles), rng.choice([0, -1, 10**30, 1.5, float("nan"), float("inf"), np.int64(1), True])])
        outcome[answered(rec, rng.choice(ASKS), title)] += 1
    assert min(outcome.values()) > n / 20


@given(how=st.sampled_from(ASKS), data=st.data())
@fewer
def test_titles_of_all_kinds(how: Ask, data: st.DataObject, model: Path) -> None:
    "Any text and any number; and titles with a letter too many, too few, or another."
    rec = MODELS.setdefault(model, Recommender.load(model))
    title = data.draw(st.text() | st.text("ab ,()'19", max_size=12) | st.sampled_from(rec.titles.titles) | st.integers() | st.floats() | st.tuples(st.sampled_from(rec.titles.titles), st.integers(0, 40), st.text(max_size=3), st.integers(0, 3)).map(lambda o: o[0][:o[1]] + o[2] + o[0][o[1] + o[3]:]))
    answered(rec, how, title)


def command(rng: random.Random, model: Path, place: Path) -> list[str]:
    "A command line that is nearly one."
    odd = [*ALPHABET, "0", "-5", "5", "", ".", "..", "/", "/dev/null", str(place / "file"), str(place / "none" / "x"), str(model), str(place), "a\0b", "--", "-", "-n"]
    verb = rng.choice(["recommend", "recommend", "similar", "explain", "train", "evaluate", "export", "download", "serve", "oops"])
    options = {"recommend": ["--user", "-n", "--genre", "--years", "--exclude", "--diversity"], "similar": ["-n"], "explain": ["--user"], "train": ["--seed", "--threshold", "--held-out", "--epochs", "--lr", "--ranker"],
               "evaluate": ["--data", "--protocol", "--seeds"], "export": ["--onnx"], "download": ["--cache"], "serve": ["--host"]}.get(verb, [])
    said = [verb]
    if verb in ("recommend", "similar", "explain", "export"): said += ["--model", rng.choice([str(model)] * 4 + odd)]
    if verb in ("evaluate", "serve"): said += ["--model", rng.choice(odd[-13:-6])]
    if verb == "train": said += ["--data", str(place / "file"), "--out", rng.choice(odd)]  # no ratings: refused before anything is trained
    for _ in range(rng.randrange(4)): said += [rng.choice([wild_title(rng), f"Fargo (1996)={rng.choice(ODD)}", "Toy Story (1995)=5", rng.choice(odd)])]
    for o in rng.sample(options, min(len(options), rng.randrange(3))): said += [o, rng.choice(odd)]
    return said + ["--json"] * (rng.random() < 0.3)


@contextlib.contextmanager
def captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err: yield out, err


def called(argv: list[str]) -> object:  # the exit code
    "Exit code 0, 1 with one sentence and no result, or 2 with the usage."
    with captured() as (out, err):
        try: code: object = main(argv)
        except SystemExit as e: code = e.code
        except Exception as e: raise AssertionError(f"{argv!r:.600}: {type(e).__name__}: {e}") from e
    if code == 1: assert out.getvalue() == "" and err.getvalue().count("\n") == 1 and err.getvalue().strip().isprintable(), f"{argv!r:.300}: {err.getvalue():.600}"
    elif code == 2: assert out.getvalue() == "" and err.getvalue().startswith("usage: saerec"), f"{argv!r:.300}: {err.getvalue():.600}"
    else: assert code == 0, f"{argv!r:.300}: {code}"
    return code


class Away:
    "Nothing is trained, fetched or served, whatever a wild command line asks for."
    def __enter__(self) -> None:
        def refuse(*_: object, **__: object) -> Any: raise InputError("Not here.")
        self.patches = [patch(f"saerec.{k}", refuse) for k in ("cli.get_data", "cli.evaluate", "cli.download_movielens", "app.serve")]
        for p in self.patches: p.start()
    def __exit__(self, *_: object) -> None:
        for p in self.patches: p.stop()


WORDS = ["train", "evaluate", "recommend", "similar", "explain", "serve", "export", "download", "--json", "--model", "--data", "--out", "--onnx", "--protocol", "strong-small", "--seeds", "--seed", "--epochs", "--lr", "--held-out", "--threshold", "--ranker", "stack", "--resume", "--refit", "--user",
         "--ratings", "-n", "--genre", "Comedy", "--years", "1990-1999", "--exclude", "--diversity", "--host", "--port", "--cache", "ml-1m", "--single", "--moments", "--only-baselines", "--help", "--version", "--", "-", "Fargo (1996)", "Toy Story (1995)=5", "fargo=4", "0", "-1", "1e400", "nan", "file", "here", ".", "x" * 5000]


def cleaned(argv: list[str]) -> list[str]:
    "What is written stays in this folder."
    return [a.replace("/", "_").replace("..", "_") for a in argv]


WHOLE = [["recommend", "fargo=4", "--model", "MODEL", "--years", "1990-1999", "-n", "3"], ["recommend", "--user", "1", "--model", "MODEL", "--genre", "Comedy", "--diversity", "0.5"], ["recommend", "--ratings", "file", "--model", "MODEL", "--json"],
         ["recommend", "Fargo (1996)=5", "--exclude", "Heat (1995)", "--model", "MODEL"], ["similar", "Fargo (1996)", "-n", "2", "--model", "MODEL"], ["explain", "Fargo (1996)", "Toy Story (1995)=5", "--model", "MODEL"], ["explain", "Fargo (1996)", "--user", "2", "--model", "MODEL"],
         ["train", "--data", "file", "--out", "here", "--seed", "1", "--lr", "1", "--held-out", "5"], ["evaluate", "--protocol", "strong-small", "--seeds", "0", "--epochs", "1", "--single"], ["export", "--onnx", "x.onnx", "--model", "MODEL"], ["download", "ml-1m", "--cache", "here"], ["serve", "--model", "MODEL", "--port", "0"]]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    "A whole command line with one value changed, or some words changed, added or gone; or words alone."
    word = st.sampled_from(WORDS) | st.text(max_size=12) | st.integers().map(str) | st.floats().map(str)
    how, argv = draw(st.integers(0, 5)), list(draw(st.sampled_from(WHOLE)))
    if how == 0: return draw(st.lists(word, max_size=7))
    if how < 5:
        argv[draw(st.sampled_from([i for i, w in enumerate(argv) if i and w != "MODEL" and not w.startswith("-")]))] = draw(word)
        return argv
    for at in draw(st.lists(st.integers(1, 12), min_size=1, max_size=2)):
        match draw(st.integers(0, 4)):
            case 0: argv.insert(min(at, len(argv)), draw(word))
            case 1: argv.pop(at % len(argv))
            case _: argv[1 + at % (len(argv) - 1) if len(argv) > 1 else 0] = draw(word)
        if not argv: break
    return argv


@given(argv=command_lines())
@example(argv=["export", "--onnx", "x\0.onnx", "--model", "MODEL"])
@fewer
def test_command_lines_of_all_kinds(argv: list[str], model: Path) -> None:
    "Words that the command knows, and any others, in any order; a file that was there is still what it was."
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place), Away():
        Path("file").write_text("mine")
        called([str(model) if a == "MODEL" else a for a in cleaned(argv)])
        if not any(a.startswith("--o") for a in argv): assert look(Path()) == {"file": b"mine"}


@pytest.mark.parametrize("n", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_wild_command_lines(n: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Exit code 0, 1 with one sentence, or 2 with the usage; nothing on the disk but what was asked for."
    (tmp_path / "file").write_text("mine")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before, saved, codes = look(tmp_path), look(model), Counter[object]()
    for k in range(n):
        argv = command(random.Random(f"{SEED} {k}"), model, tmp_path)
        code = called(argv)
        codes[code] += 1
        if argv[0] == "export" and code == 0: before = look(tmp_path)
        assert look(tmp_path) == before, f"command {k}: {argv!r} changed the disk"
    assert look(model) == saved and codes[1] > n / 10, codes


# --- guided by coverage ---

@pytest.mark.slow
@pytest.mark.parametrize("target", ["files", "titles", "models", "commands"])
def test_guided_fuzzing(target: str, model: Path, tmp_path: Path, note: Callable[[str], None]) -> None:
    "Inputs that are bred for reaching new lines. SAEREC_FUZZ_RUNS=10000 tries more of them."
    if not importlib.util.find_spec("atheris"): pytest.skip("atheris is not installed: its wheels are for Linux on x86-64")
    (seeds := tmp_path / "seeds").mkdir()
    rng = random.Random(SEED)
    for k in range(60):
        data = b""
        if target == "files":
            (place := tmp_path / str(k)).mkdir()
            path, _ = write_wild(rng, place)
            if path.is_file(): data = bytes([{".zip": 1, ".parquet": 2}.get(path.suffix, 0)]) + path.read_bytes()
        elif target == "titles": data = rng.randbytes(2) + rng.choice([wild_title(rng)[:300], "Toy Story (1995)", "heat", "matrix, the", "5"]).encode("utf-8", "surrogatepass")
        elif target == "models": data = bytes([k % 6]) + (model / ["recommender.json", "weights.safetensors", "movies.parquet"][k % 3]).read_bytes()[:2**16]
        else: data = "\n".join(WHOLE[k] if k < len(WHOLE) else [a for a in command(rng, Path("MODEL"), Path("here")) if len(a) < 100]).encode("utf-8", "surrogatepass")
        (seeds / str(k)).write_bytes(data)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "1"}
    (tmp_path / "here").mkdir()
    p = subprocess.run([sys.executable, str(ROOT / "tests" / "guided.py"), target, str(model), f"-runs={os.environ.get('SAEREC_FUZZ_RUNS', '2500')}", "-len_control=0", "-timeout=20", "-rss_limit_mb=4096", f"-seed={SEED + 1}", str(seeds)], cwd=tmp_path / "here", capture_output=True, text=True, errors="replace", timeout=3000, env=env)
    done = [line for line in p.stderr.splitlines() if line.startswith("Done ")]
    assert p.returncode == 0 and done, (p.stdout + p.stderr)[-3000:]
    note(f"guided fuzzing of {target}: {done[0]}")
