"""Folders saved by earlier versions stay readable, and say what they said; damaged and forged ones are refused.

A reader never sees a mix. fixtures/model-1 is of format 1: tiny networks on the 150 most rated movies of the bundled
ratings, whose licence lies beside it."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from test_properties import fewer

from saerec.data import InputError
from saerec.recommend import Recommender
from saerec.recommend.manifest import checksum

FIXTURES = Path(__file__).parent / "fixtures"
PERSON = {"Toy Story (1995)": 5, "Heat (1995)": 4, "Fargo (1996)": 4.5}


def test_format_1_is_read() -> None:
    rec, wanted = Recommender.load(FIXTURES / "model-1"), json.loads((FIXTURES / "model-1-expected.json").read_text())
    assert rec.manifest.format == 1
    top = rec.recommend(PERSON, n=5, calibrate=0)
    assert top.movie.tolist() == wanted["movie"] and top.because.tolist() == wanted["because"]
    np.testing.assert_allclose(top.score, wanted["score"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(top.p_like, wanted["p_like"], rtol=0, atol=2e-5)


def test_format_1_is_saved_as_today(tmp_path: Path) -> None:
    rec = Recommender.load(FIXTURES / "model-1")
    again = Recommender.load(rec.save(tmp_path / "model"))
    assert again.manifest.format == 7 and again.manifest.checksum is not None
    pd.testing.assert_frame_equal(again.recommend(PERSON), rec.recommend(PERSON))
    assert (
        "150 movies" in (tmp_path / "model" / "model_card.md").read_text()
        or "150 films" in (tmp_path / "model" / "model_card.md").read_text()
    )
    with pytest.raises(InputError, match="saved without its users' ratings"):
        rec.recommend(1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The fixture, saved in today's format."
    rec = Recommender.load(FIXTURES / "model-1")
    return rec.save(tmp_path_factory.mktemp("saved") / "model")


def sign(folder: Path, **changes: Any) -> None:
    "A manifest that fits the files again, as a forger would write it; a change to None takes the key away."
    info = {k: v for k, v in (json.loads((folder / "recommender.json").read_text()) | changes).items() if v is not None}
    for name in info["files"]:
        data = (folder / name).read_bytes()
        info["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "recommender.json").write_text(json.dumps(info | {"checksum": checksum(info)}))


def tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    "Other weights, properly signed."
    t = {k: v.copy() for k, v in load_file(folder / "weights.safetensors").items()}
    change(t)
    save_file(t, folder / "weights.safetensors")
    sign(folder)


def bytes_of(folder: Path, name: str, change: Callable[[bytes], bytes], signed: bool = False) -> None:
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    if signed:
        sign(folder)


def header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    "Another head of the weights, properly signed."
    data = (folder / "weights.safetensors").read_bytes()
    n = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + n])
    change(head)
    text = json.dumps(head).encode()
    (folder / "weights.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + n :])
    sign(folder)


def movies(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(folder / "movies.parquet")).to_parquet(folder / "movies.parquet", index=False)
    sign(folder)


def link_out(folder: Path) -> None:
    (folder / "movies.parquet").rename(folder.parent / "elsewhere.parquet")
    (folder / "movies.parquet").symlink_to(folder.parent / "elsewhere.parquet")


def ranker_option(folder: Path, **changes: Any) -> None:
    sign(folder, ranker=json.loads((folder / "recommender.json").read_text())["ranker"] | changes)


NAN = float("nan")
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {  # how, what is said
    "weights cut": (lambda d: bytes_of(d, "weights.safetensors", lambda b: b[:-7]), "weights.safetensors: it has"),
    "weights altered": (
        lambda d: bytes_of(d, "weights.safetensors", lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]),
        "weights.safetensors: it was altered",
    ),
    "weights gone": (lambda d: (d / "weights.safetensors").unlink(), "weights.safetensors: there is no such file"),
    "weights of another length, signed": (
        lambda d: bytes_of(d, "weights.safetensors", lambda b: b[:-8], signed=True),
        "weights.safetensors: it is no whole safetensors file",
    ),
    "a head of terabytes": (
        lambda d: bytes_of(d, "weights.safetensors", lambda b: (2**40).to_bytes(8, "little") + b[8:], signed=True),
        "no whole safetensors file",
    ),
    "absurd shape": (
        lambda d: header(d, lambda h: h["ranker.table"].update(shape=[10**12, 10**6])),
        "weights.safetensors: it is no whole safetensors file",
    ),
    "overlapping tensors": (
        lambda d: header(d, lambda h: h["ranker.bias"].update(data_offsets=h["ranker.table"]["data_offsets"])),
        "weights.safetensors: it is no whole safetensors file",
    ),
    "NaN": (
        lambda d: tensors(d, lambda t: t["ranker.table"].__setitem__((0, 0), NAN)),
        "'ranker.table' holds NaN or infinity",
    ),
    "double precision": (
        lambda d: tensors(d, lambda t: t.update({"ranker.bias": t["ranker.bias"].astype(np.float64)})),
        "'ranker.bias' is float64",
    ),
    "a tensor too few": (lambda d: tensors(d, lambda t: t.pop("liker.bias")), "'liker.bias' is missing"),
    "a tensor too many": (
        lambda d: tensors(d, lambda t: t.update(extra=np.zeros(3, np.float32))),
        "'extra' is not one of this model",
    ),
    "codes out of range": (
        lambda d: tensors(d, lambda t: t["rank_codes"].__setitem__(-1, 10**6)),
        "'rank_codes' has codes",
    ),
    "another width": (lambda d: ranker_option(d, hidden=[10**6, 4]), "recommender.json asks for"),
    "unknown option": (lambda d: ranker_option(d, __class__="os.system"), "__class__: Extra inputs are not permitted"),
    "unknown kind": (lambda d: ranker_option(d, kind="builtins.eval"), "Input tag 'builtins.eval' found"),
    "unknown format": (lambda d: sign(d, format=99), "format '99'"),
    "no threshold": (lambda d: sign(d, threshold=None), "threshold: Field required"),
    "a wrong scale": (lambda d: sign(d, scale=[5, 1]), "`scale` has an invalid value"),
    "manifest altered": (
        lambda d: bytes_of(d, "recommender.json", lambda b: b.replace(b'"threshold": 4', b'"threshold": 2')),
        "recommender.json: it was altered",
    ),
    "manifest cut": (lambda d: bytes_of(d, "recommender.json", lambda b: b[: len(b) // 2]), "no whole JSON text"),
    "manifest too large": (
        lambda d: os.truncate(d / "recommender.json", 2**24 + 1),
        "more than 16,777,216 are never read",
    ),
    "movies cut": (lambda d: bytes_of(d, "movies.parquet", lambda b: b[:-3]), "movies.parquet: it has"),
    "movies no Parquet, signed": (
        lambda d: bytes_of(d, "movies.parquet", lambda b: b"PAR1" + b[4:-4] + b"XXXX", signed=True),
        "movies.parquet: it is no whole Parquet table",
    ),
    "a movie too few": (lambda d: movies(d, lambda m: m.iloc[:-1]), "movies.parquet: it has 149 rows"),
    "no titles": (lambda d: movies(d, lambda m: m.drop(columns="title")), "its column 'title' is missing"),
    "a link out of the folder": (link_out, "a link out of the folder"),
}


def one_sentence(error: BaseException, folder: Path) -> str:
    said = str(error)
    assert "\n" not in said and said.endswith(".") and str(folder) in said and error.__cause__ is None, said
    return said


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_refused(how: str, saved: Path, tmp_path: Path) -> None:
    "Cut, altered, forged with right hashes: one sentence with file and reason."
    folder = Path(shutil.copytree(saved, tmp_path / "model"))
    sign(folder)
    Recommender.load(folder)  # the forger's signature alone is no fault
    damage, told = DAMAGE[how]
    damage(folder)
    with pytest.raises(InputError) as e:
        Recommender.load(folder)
    assert told in one_sentence(e.value, folder)


def read_or_refused(folder: Path) -> None:
    "One sentence, or a model that answers."
    try:
        rec = Recommender.load(folder)
    except InputError as e:
        one_sentence(e, folder)
        return
    try:
        assert len(rec.recommend({rec.movies.title[0]: 5}, n=5)) <= 5
    except InputError:
        pass  # a scale without 5, two films of one title


def put(folder: Path, name: str, data: bytes, signed: bool) -> None:
    "Another content of one file; signed anew if that is asked and possible."
    (folder / name).write_bytes(data)
    try:
        sign(folder) if signed else None
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
        pass  # a manifest that nobody can sign


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([-1, 0, 1, 2**31, 2**63, 10**400, "StackedAutoencoder", "RankStack", "../x"]),
    lambda o: (
        st.lists(o, max_size=4)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(["kind", "members", "weights", "hidden", "n_movies", "x", "y"]),
            o,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(data=st.data())
@fewer
def test_wild_manifests(data: st.DataObject, saved: Path) -> None:
    "Any JSON in place of some values of the manifest, rightly signed."
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(saved, Path(place) / "model"))
        info: Any = json.loads((folder / "recommender.json").read_text())
        for _ in range(data.draw(st.integers(1, 2))):
            at = info
            while True:
                key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
                if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
                    break
                at = at[key]
            at[key] = data.draw(JSON)
        put(folder, "recommender.json", json.dumps(info).encode(), signed=True)
        read_or_refused(folder)


@given(
    name=st.sampled_from(["weights.safetensors", "movies.parquet", "recommender.json"]),
    near=st.sampled_from([1.0, 0.02]),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=24)), min_size=1, max_size=3),
    end=st.booleans(),
    signed=st.booleans(),
)
@fewer
def test_wild_bytes(
    name: str, near: float, cuts: list[tuple[float, int, bytes]], end: bool, signed: bool, saved: Path
) -> None:
    "Some bytes replaced by others, often near the head of the weights or the foot of the table, rightly signed or not."
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(saved, Path(place) / "model"))
        content = (folder / name).read_bytes()
        for where, n, new in cuts:
            at = int(where * near * len(content))
            if end:
                at = len(content) - at
            content = content[:at] + new + content[at + n :]
        put(folder, name, content, signed)
        read_or_refused(folder)


WRITER = """
import sys
from pathlib import Path
from saerec.recommend import Recommender
a, b, where = map(Path, sys.argv[1:4])
models = [Recommender.load(a), Recommender.load(b)]
print("ready", flush=True)
for k in range(int(sys.argv[4])): models[k % 2].save(where)
"""


def writer(*arguments: object) -> subprocess.Popen[str]:
    "Another process that saves two models in turn."
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=env
    )


@pytest.fixture(scope="module")
def other(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Another model for the same films: other weights, other titles."
    found = Recommender.load(saved).artefact
    arrays = {k: -a if a.dtype == np.float32 else a for k, a in found.arrays.items()}
    movies = found.movies.assign(title=found.movies.title + " II")
    return Recommender(replace(found, arrays=arrays, movies=movies)).save(tmp_path_factory.mktemp("other") / "model")


def looks(rec: Recommender) -> tuple[str, float, float]:
    "What tells which model it is: a title, and sums of both networks."
    sums = [round(float(rec.artefact.arrays[f"{k}.table"].astype(np.float64).sum()), 6) for k in ("ranker", "liker")]
    return rec.movies.title[0][-3:], sums[0], sums[1]


def test_a_reader_sees_the_old_model_or_the_new(saved: Path, other: Path, tmp_path: Path) -> None:
    "One process saves two models in turn, this one reads: never a mix, never nothing."
    where = Path(shutil.copytree(saved, tmp_path / "model"))
    wanted, seen = {looks(Recommender.load(p)) for p in (saved, other)}, []
    p = writer(saved, other, where, 60)
    assert p.stdout and p.stdout.readline() == "ready\n"
    while p.poll() is None or len(seen) < 20:
        seen.append(looks(Recommender.load(where)))
    assert p.returncode == 0 and set(seen) == wanted == set(seen[:-1]) and len(wanted) == 2


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_while_saving(kills: int, saved: Path, other: Path, tmp_path: Path) -> None:
    "A model that is there stays whole, the old one or the new one, and can be saved over."
    where, rng = Path(shutil.copytree(saved, tmp_path / "model")), random.Random(0)
    wanted = {looks(Recommender.load(p)) for p in (saved, other)}
    for _ in range(kills):
        p = writer(saved, other, where, 10**6)
        assert p.stdout and p.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.2))
        p.send_signal(signal.SIGKILL)
        p.communicate()
        assert looks(Recommender.load(where)) in wanted
    Recommender.load(other).save(where)
    assert looks(Recommender.load(where)) == looks(Recommender.load(other))
