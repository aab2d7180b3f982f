"""Wild files, titles and command lines: each is read rightly, or refused with one sentence; nothing else happens.

Files of wild content are in test_properties.py. SAEREC_EXAMPLES=2000 pytest tests/test_fuzz_input.py   tries more."""
import bz2
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
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
from test_properties import check_sentence, fewer

from saerec.cli.command import main
from saerec.data import InputError, Ratings, load_movielens, read_ratings
from saerec.recommend import Recommender

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.filterwarnings("ignore")  # pandas warns about odd cells; only the outcome counts here
Table = set[tuple[int, int, float]]

# --- files ---

def look(folder: Path) -> dict[str, object]:
    "What is in a folder, byte for byte."
    return {
        str(f.relative_to(folder)): f.read_bytes() if f.is_file() else f.is_symlink() for f in sorted(folder.rglob("*"))
    }


PLAIN = b"user,movie,rating\n1,1,4\n1,2,5\n2,1,2.5\n"
WANTED: Table = {(1, 1, 4.0), (1, 2, 5.0), (2, 1, 2.5)}


def zipped(data: bytes, name: str = "ml/ratings.csv", how: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(f := io.BytesIO(), "w", how) as z: z.writestr(name, data)
    return f.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def linked(path: Path, to: Path) -> Path:
    path.symlink_to(to)
    return path


def pipe(path: Path) -> Path:
    if not hasattr(os, "mkfifo"): pytest.skip("this system has no named pipes")
    os.mkfifo(path)
    return path


def locked(data: bytes) -> bytes:
    "A zip that says that it needs a password."
    return (
        zipped(data)
        .replace(b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0")
        .replace(b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\1\0")
    )


PLACES: dict[str, tuple[Callable[[Path], Path], bool]] = {  # how the file comes to be there; whether it is read
    "link": (lambda d: linked(d / "r.csv", write(d / "target", PLAIN)), True),
    "folder": (lambda d: write(d / "ml" / "ratings.csv", PLAIN).parent, True),
    "deep zip": (lambda d: write(d / "r.zip", zipped(PLAIN, "a/b/ratings.csv")), True),
    "stored zip": (lambda d: write(d / "r.zip", zipped(PLAIN, how=zipfile.ZIP_STORED)), True),
    "bz2 in a zip": (lambda d: write(d / "r.zip", zipped(PLAIN, how=zipfile.ZIP_BZIP2)), True),
    "lzma in a zip": (lambda d: write(d / "r.zip", zipped(PLAIN, how=zipfile.ZIP_LZMA)), True),
    "empty": (lambda d: write(d / "r.csv", b""), False),
    "circle": (lambda d: linked(d / "r.csv", d / "r.csv"), False),
    "folder named as a file": (lambda d: write(d / "r.csv" / "mine", PLAIN).parent, False),
    "pipe": (lambda d: pipe(d / "r.csv"), False),
    "locked zip": (lambda d: write(d / "r.zip", locked(PLAIN)), False),
    "torn zip": (lambda d: write(d / "r.zip", zipped(PLAIN)[:-30]), False),
    "text as zip": (lambda d: write(d / "r.zip", PLAIN), False),
    "text as parquet": (lambda d: write(d / "r.parquet", PLAIN), True),
    "bz2": (lambda d: write(d / "r.csv.bz2", bz2.compress(PLAIN)), False),
}


@pytest.mark.parametrize("place", PLACES)
def test_places(place: str, tmp_path: Path) -> None:
    "A file, link, folder, archive or worse is read rightly or refused with one sentence; the disk stays as it is."
    make, readable = PLACES[place]
    path = make(tmp_path)
    before = look(tmp_path)
    try: r = read_ratings(path)
    except InputError as e:
        check_sentence(e, path.name)
        assert not readable, e
    else: assert readable and found(r) == WANTED
    assert look(tmp_path) == before


def found(r: Ratings) -> Table:
    f = r.frame()
    return set(zip(f.user_id.astype(int), f.movie_id.astype(int), f.rating.astype(float), strict=True))


@pytest.mark.parametrize(
    "name", ["../ratings.csv", "../../ratings.csv", "a/../../ratings.csv", "{}/absolute/ratings.csv", "..\\ratings.csv"]
)
def test_names_that_lead_outside(name: str, tmp_path: Path) -> None:
    "A zip is read where it lies, and no name in it leads anywhere."
    (tmp_path / "a" / "b").mkdir(parents=True)
    with zipfile.ZipFile(path := tmp_path / "a" / "b" / "r.zip", "w") as z:
        z.writestr(name.format(tmp_path), "userId,movieId,rating\n1,1,4\n")
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
    p = subprocess.run(
        [sys.executable, "-c", BOMB, str(memory), *map(str, bombs)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "1"},
    )
    assert (p.returncode, p.stderr) == (0, ""), p.stderr
    told = p.stdout.splitlines()[1:]
    assert len(told) == len(bombs) and all(b.name in line for b, line in zip(bombs, told, strict=True)), told
    return told


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory is set the way of Linux")


@pytest.mark.slow
@linux
def test_zip_bomb(tmp_path: Path) -> None:
    "A zip that would unpack to half a gigabyte, and one that tells a smaller size: refused within 128 MB."
    with (
        zipfile.ZipFile(bomb := tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as z,
        z.open("ml/ratings.csv", "w") as f,
    ):
        f.write(b"userId,movieId,rating\n1,1,4\n")
        for _ in range(512): f.write(b"\n" * 2**20)
    with zipfile.ZipFile(bomb) as z: size = z.infolist()[0].file_size
    (lie := tmp_path / "lie.zip").write_bytes(
        bomb.read_bytes().replace(size.to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    )
    told = defuse(2**27, bomb, lie)
    assert "which no ratings do" in told[0] and "no readable zip" in told[1], told


def swapped(data: bytes, old: int, new: int) -> bytes:
    "Another number in the footer of a Parquet file: zigzag, seven bits a byte, and of the same length."

    def thrift(n: int) -> bytes:
        return bytes((n << 1 >> s & 127) | 128 * (n << 1 >> s + 7 > 0) for s in range(0, (n << 1).bit_length(), 7))

    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    assert len(thrift(old)) == len(thrift(new)) and thrift(old) in data[footer:]
    return data[:footer] + data[footer:].replace(thrift(old), thrift(new))


@pytest.mark.slow
@linux
def test_parquet_bomb(tmp_path: Path) -> None:
    "Kilobytes that would become a gigabyte, and others that say so: one sentence each, within 512 MB."

    def equal(n: int) -> Path:
        table = pa.table({"user": np.ones(n, np.int64), "movie": np.ones(n, np.int64), "rating": np.full(n, 2.5)})
        pq.write_table(
            table,
            path := tmp_path / f"rows{n}.parquet",
            compression="zstd",
            data_page_size=2**30,
            row_group_size=2**30,
            write_statistics=False,
        )
        return path

    many, some = 2**25 + 1, 2**20 + 1
    rows, million = equal(many), equal(some)
    (lie := tmp_path / "more.parquet").write_bytes(swapped(million.read_bytes(), some, 2**27 - 1))
    assert all("which no ratings do" in line for line in defuse(2**29, rows, lie))
    assert rows.stat().st_size < 300_000


# --- titles and command lines ---

@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A small recommender, saved."
    r = load_movielens()
    r = r.select(r.user < 60)
    r = r.only_movies(np.flatnonzero(np.bincount(r.movie, minlength=r.n_movies) >= 5))
    few = {"epochs": 1}
    return Recommender.fit(r, n_held=8, say=None, likes_changes=few, ranking_changes=few, ranker="network").save(
        tmp_path_factory.mktemp("model") / "model"
    )


Ask = Callable[[Recommender, Any], pd.DataFrame]
ASKS: list[Ask] = [
    lambda rec, t: rec.recommend({t: 4.0}, n=3),
    lambda rec, t: rec.similar(t, n=3),
    lambda rec, t: rec.explain({"Fargo (1996)": 4.0}, t),
    lambda rec, t: rec.recommend({"Fargo (1996)": 4.0}, exclude=[t], n=3),
    lambda rec, t: rec.recommend({"Fargo (1996)": t}, n=3),
    lambda rec, t: rec.recommend(t, n=3),
    lambda rec, t: rec.recommend({"Fargo (1996)": 4.0}, genres=[str(t)], n=3),
]
MODELS: dict[Path, Recommender] = {}


def answered(rec: Recommender, ask: Ask, title: object) -> bool:
    "Whether something sane is answered; if not, one sentence says why."
    try: table = ask(rec, title)
    except InputError as e:
        assert str(e).isprintable() and len(str(e)) <= 500 and str(e).endswith((".", "?")), f"{title!r}: {e}"
        return False
    assert set(table.title) <= set(rec.titles.titles) and np.isfinite(table.select_dtypes("number").to_numpy()).all()
    return True


@given(how=st.sampled_from(ASKS), data=st.data())
@fewer
def test_titles_of_all_kinds(how: Ask, data: st.DataObject, model: Path) -> None:
    "Any text and any number; and titles with a letter too many, too few, or another."
    rec = MODELS.setdefault(model, Recommender.load(model))
    title = data.draw(
        st.text()
        | st.text("ab ,()'19", max_size=12)
        | st.sampled_from(rec.titles.titles)
        | st.integers()
        | st.floats()
        | st.tuples(st.sampled_from(rec.titles.titles), st.integers(0, 40), st.text(max_size=3), st.integers(0, 3)).map(
            lambda o: o[0][: o[1]] + o[2] + o[0][o[1] + o[3] :]
        )
    )
    answered(rec, how, title)


@contextlib.contextmanager
def captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        yield out, err


def called(argv: list[str]) -> object:  # the exit code
    "Exit code 0, 1 with one sentence and no result, or 2 with the usage."
    with captured() as (out, err):
        try: code: object = main(argv)
        except SystemExit as e: code = e.code
        except Exception as e: raise AssertionError(f"{argv!r:.600}: {type(e).__name__}: {e}") from e
    if code == 1:
        assert out.getvalue() == "" and err.getvalue().count("\n") == 1 and err.getvalue().strip().isprintable(), (
            f"{argv!r:.300}: {err.getvalue():.600}"
        )
    elif code == 2:
        assert out.getvalue() == "" and err.getvalue().startswith("usage: saerec"), (
            f"{argv!r:.300}: {err.getvalue():.600}"
        )
    else: assert code == 0, f"{argv!r:.300}: {code}"
    return code


class Away:
    "Nothing is trained, fetched or served, whatever a wild command line asks for."

    def __enter__(self) -> None:
        def refuse(*_: object, **__: object) -> Any: raise InputError("Not here.")

        self.patches = [
            patch(f"saerec.{k}", refuse)
            for k in (
                "cli.training.get_data",
                "cli.training.evaluate",
                "data.editions.download_movielens",
                "app.serve",
            )
        ]
        for p in self.patches: p.start()

    def __exit__(self, *_: object) -> None:
        for p in self.patches: p.stop()


WORDS = [*(
    "train evaluate recommend similar explain serve export download --json --model --data --out --onnx --protocol "
    "strong-small --seeds --seed --epochs --lr --held-out --threshold --ranker stack --resume --refit --user "
    "--ratings -n --genre Comedy --years 1990-1999 --exclude --diversity --host --port --cache ml-1m --single "
    "--moments --only-baselines --help --version -- - fargo=4 0 -1 1e400 nan file here .").split(),
         "Fargo (1996)", "Toy Story (1995)=5", "x" * 5000]


def cleaned(argv: list[str]) -> list[str]:
    "What is written stays in this folder."
    return [a.replace("/", "_").replace("..", "_") for a in argv]


WHOLE = [
    ["recommend", "fargo=4", "--model", "MODEL", "--years", "1990-1999", "-n", "3"],
    ["recommend", "--user", "1", "--model", "MODEL", "--genre", "Comedy", "--diversity", "0.5"],
    ["recommend", "--ratings", "file", "--model", "MODEL", "--json"],
    ["recommend", "Fargo (1996)=5", "--exclude", "Heat (1995)", "--model", "MODEL"],
    ["similar", "Fargo (1996)", "-n", "2", "--model", "MODEL"],
    ["explain", "Fargo (1996)", "Toy Story (1995)=5", "--model", "MODEL"],
    ["explain", "Fargo (1996)", "--user", "2", "--model", "MODEL"],
    ["train", "--data", "file", "--out", "here", "--seed", "1", "--lr", "1", "--held-out", "5"],
    ["evaluate", "--protocol", "strong-small", "--seeds", "0", "--epochs", "1", "--single"],
    ["export", "--onnx", "x.onnx", "--model", "MODEL"],
    ["download", "ml-1m", "--cache", "here"],
    ["serve", "--model", "MODEL", "--port", "0"],
]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    "A whole command line with one value changed, or some words changed, added or gone; or words alone."
    word = st.sampled_from(WORDS) | st.text(max_size=12) | st.integers().map(str) | st.floats().map(str)
    how, argv = draw(st.integers(0, 5)), list(draw(st.sampled_from(WHOLE)))
    if how == 0: return draw(st.lists(word, max_size=7))
    if how < 5:
        argv[draw(st.sampled_from([i for i, w in enumerate(argv) if i and w != "MODEL" and not w.startswith("-")]))] = (
            draw(word)
        )
        return argv
    for at in draw(st.lists(st.integers(1, 12), min_size=1, max_size=2)):
        match draw(st.integers(0, 4)):
            case 0:
                argv.insert(min(at, len(argv)), draw(word))
            case 1:
                argv.pop(at % len(argv))
            case _:
                argv[1 + at % (len(argv) - 1) if len(argv) > 1 else 0] = draw(word)
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


