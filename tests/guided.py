"""Targets for atheris, which breeds inputs that reach new lines: python guided.py TARGET MODEL [options of libFuzzer] SEEDS. test_fuzz_input.py runs them."""
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import atheris
import pandas  # noqa: F401  (loaded before saerec, and not instrumented)
import pyarrow.csv  # noqa: F401
import torch  # noqa: F401

with atheris.instrument_imports(include=["saerec"]):
    import saerec.cli
    from saerec.data import read_ratings
    from saerec.recommend import Recommender

from test_artefacts import put, read_or_refused
from test_fuzz_input import ASKS, WORDS, Away, InputError, answered, called, check_valid, cleaned, look

TARGET, MODEL = sys.argv[1], Path(sys.argv[2]).absolute()
place = Path(tempfile.mkdtemp())
NAMES = ["r.csv", "r.zip", "r.parquet", "u.data", "ratings.dat"]
FILES = ["recommender.json", "weights.safetensors", "movies.parquet"]
rec = Recommender.load(MODEL)


def files(data: bytes) -> None:
    path = place / NAMES[data[0] % len(NAMES)] if data else place / "r.csv"
    path.write_bytes(data[1:])
    try: r = read_ratings(path)
    except InputError as e: assert str(e).isprintable() and len(str(e)) <= 500
    else: check_valid(r)


def titles(data: bytes) -> None:
    if len(data) < 2: return
    text = data[2:].decode("utf-8", "surrogatepass" if data[1] & 1 else "replace") if data[1] & 2 else data[2:].decode("latin-1")
    answered(rec, ASKS[data[0] % len(ASKS)], text)


def models(data: bytes) -> None:
    if not data: return
    folder = Path(shutil.copytree(MODEL, place / "model", dirs_exist_ok=True))
    put(folder, FILES[data[0] % 3], data[1:], signed=data[0] // 3 % 2 == 1)
    read_or_refused(folder)


def commands(data: bytes) -> None:
    argv = [str(MODEL) if w == "MODEL" else WORDS[ord(w)] if len(w) == 1 and ord(w) < len(WORDS) else cleaned([w])[0] for w in data.decode("utf-8", "replace").split("\n")]
    for f in Path().iterdir(): f.unlink() if f.is_file() or f.is_symlink() else shutil.rmtree(f)
    Path("file").write_text("mine")
    with Away(): called(argv)
    if not any("--o" in w for w in argv): assert look(Path()) == {"file": b"mine"}, argv


def one(data: bytes) -> None:
    try: {"files": files, "titles": titles, "models": models, "commands": commands}[TARGET](data)
    except UnicodeDecodeError: pass  # this is no text


warnings.simplefilter("ignore")
assert saerec.cli
atheris.Setup([sys.argv[0], *sys.argv[3:]], one)
atheris.Fuzz()
