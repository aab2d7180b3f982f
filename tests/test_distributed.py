"""Many processes: the losses of one, a training that outlives its processes, scores in parts that are the whole.

A fault is one sentence."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open

from saerec.cli.command import main as saerec
from saerec.data import load_movielens, write_csr
from saerec.recommend import Recommender
from saerec.train.__main__ import main
from saerec.train.bulk import load_network, read_scores

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
SETTINGS = ["--epochs", "8", "--hidden", "32", "16", "--batch-size", "16", "--seed", "3"]


def torchrun(*arguments: object, processes: int = 2, restarts: int = 0, module: str = "saerec.train") -> list[str]:
    "The command line of `torchrun`."
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        "--max-restarts",
        str(restarts),
        "-m",
        module,
        *map(str, arguments),
    ]


def started(command: list[str], cwd: Path) -> subprocess.Popen[str]:
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.Popen(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(p: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = p.communicate(timeout=120)
    except BaseException:
        p.terminate()  # torchrun ends its processes with it
        p.communicate(timeout=60)
        raise
    return p.returncode, out, err


def losses(folder: Path) -> pd.DataFrame:
    return pd.DataFrame(json.loads((folder / "losses.json").read_text())["epochs"]).drop(columns="seconds")


def same_network(a: Path, b: Path) -> bool:
    x, y = (load_network(f / "weights.safetensors").state_dict() for f in (a, b))
    return all(torch.equal(x[k], y[k]) for k in x)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Trained and scored by this process, from mapped rows; it is no group."
    folder = tmp_path_factory.mktemp("one")
    rows = write_csr(load_movielens(), folder / "rows.safetensors")
    assert main(["--data", str(rows), "--out", str(folder / "run"), "--score", *SETTINGS]) == 0
    assert not dist.is_initialized()
    return folder / "run"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Trained and scored by two."
    folder = tmp_path_factory.mktemp("two")
    code, out, err = finished(started(torchrun("--out", "run", "--score", *SETTINGS), folder))
    assert code == 0 and "Traceback" not in err and "Warning" not in err, err
    assert [o.split(":")[0] for o in out.splitlines()] == ["ranking", "scores"], "only one process tells the result"
    return folder / "run"


def test_losses_of_one_process(one: Path, two: Path, note) -> None:
    a, b = losses(one), losses(two)
    assert len(a) == len(b) and (a.train_loss.iloc[0] > a.train_loss.iloc[-1])
    note(
        "largest difference of a loss, one process and two: "
        f"{(a - b).abs()[['train_loss', 'valid_loss']].max().max():.1e}"
    )
    pd.testing.assert_frame_equal(a, b, rtol=1e-4, atol=0)
    x, y = (load_network(f / "weights.safetensors").state_dict() for f in (one, two))
    for k in x:
        torch.testing.assert_close(x[k], y[k], rtol=1e-3, atol=1e-4)


def test_files(two: Path) -> None:
    assert sorted(f.name for f in two.iterdir()) == [
        "checkpoint.safetensors",
        "losses.json",
        "scores",
        "weights.safetensors",
    ]
    assert sorted(f.name for f in (two / "scores").iterdir()) == [
        "manifest.json",
        "part-00000-of-00002.parquet",
        "part-00001-of-00002.parquet",
    ]


def test_scores_of_one_process(two: Path, tmp_path: Path) -> None:
    "The same network, scored by one and by two."
    shutil.copy(two / "weights.safetensors", tmp_path)
    assert main(["--out", str(tmp_path), "--only-score"]) == 0
    a, b = read_scores(tmp_path / "scores"), read_scores(two / "scores")
    r = load_movielens()
    assert a.user_id.nunique() == r.n_users and len(a) == 10 * r.n_users
    pd.testing.assert_frame_equal(a.drop(columns="score"), b.drop(columns="score"))
    pd.testing.assert_series_equal(a.score, b.score, rtol=1e-5)
    assert a.merge(r.frame()[["user_id", "movie_id"]]).empty, "nobody is given what they have rated"


def kill(p: subprocess.Popen[str], rank: int, start: int, file: Path, epoch: int) -> int:
    "Kill one process of the given start of them all, when an epoch is finished; which epoch it was."
    end = time.monotonic() + 60
    while time.monotonic() < end and p.poll() is None:
        if file.exists():
            with safe_open(file, "pt") as f:
                done = json.loads(f.metadata()["saerec"])["epoch"]
            for c in psutil.Process(p.pid).children() if done >= epoch else ():
                try:
                    who = c.environ()
                except psutil.Error:
                    continue  # it is going or coming
                if (who.get("RANK"), who.get("TORCHELASTIC_RESTART_COUNT")) != (str(rank), str(start)):
                    continue
                c.kill()
                return done
        time.sleep(0.02)
    p.terminate()
    pytest.fail(f"epoch {epoch} was not reached: {p.communicate(timeout=60)}")


@pytest.mark.parametrize(
    "ranks", [pytest.param([0], id="the one that writes"), pytest.param([1, 0], id="twice", marks=pytest.mark.slow)]
)
def test_killed(ranks: list[int], two: Path, tmp_path: Path) -> None:
    "A process is killed: torchrun starts all again, and the end is that of an undisturbed training, bit for bit."
    p = started(torchrun("--out", "run", *SETTINGS, restarts=len(ranks)), tmp_path)
    epoch = 0
    for start, rank in enumerate(ranks):
        epoch = kill(p, rank, start, tmp_path / "run/checkpoint.safetensors", epoch + 2)
    code, _, err = finished(p)
    assert code == 0, err
    assert err.count("training goes on from there") == len(ranks)
    pd.testing.assert_frame_equal(losses(tmp_path / "run"), losses(two), check_exact=True)
    assert same_network(tmp_path / "run", two)
    assert not list((tmp_path / "run").glob(".*")), "halves of files are left"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_ended(number: int, two: Path, tmp_path: Path) -> None:
    "SIGTERM to `torchrun`, or its death, ends all processes at once; the checkpoint leads to the undisturbed end."
    p = started(torchrun("--out", "run", *SETTINGS, restarts=3), tmp_path)
    until = time.monotonic() + 60
    while not (tmp_path / "run/checkpoint.safetensors").exists():
        assert p.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    everything = psutil.Process(p.pid).children(recursive=True)
    p.send_signal(number)
    _, err = p.communicate(timeout=25)  # torchrun kills after 30
    assert psutil.wait_procs(everything, timeout=20)[1] == []
    assert p.returncode != 0 and "saerec/" not in err.replace(str(ROOT), "")
    if number == signal.SIGTERM:
        assert (
            err.count("saerec: ended by SIGTERM; the epochs that were finished are in run/checkpoint.safetensors.") == 1
        ), err
    assert main(["--out", str(tmp_path / "run"), *SETTINGS]) == 0
    pd.testing.assert_frame_equal(losses(tmp_path / "run"), losses(two), rtol=1e-4)


def small_ratings(path: Path) -> Path:
    r = load_movielens()
    well_known = np.flatnonzero(np.bincount(r.movie) >= 60)
    r.only_movies(well_known).frame().to_csv(path, index=False)
    return path


def test_whole_job(tmp_path: Path, note) -> None:
    "`saerec train` shared by two, of which one is killed, writes what one process writes; another call finds it done."
    data = small_ratings(tmp_path / "ratings.csv")
    asked = ["train", "--data", data, "--epochs", "3", "--out"]
    assert saerec([*map(str, asked), str(tmp_path / "one")]) == 0

    p = started(torchrun(*asked, "two", restarts=1, module="saerec"), tmp_path)
    kill(p, 1, 0, tmp_path / ".two-training/likes.safetensors", 1)
    code, out, err = finished(p)
    assert code == 0 and "going on with the training that was stopped" in err, err
    assert out.count("Saved in two") == 1 and "Traceback" not in err

    one, two = (Recommender.load(tmp_path / name) for name in ("one", "two"))
    assert one.artefact.arrays.keys() == two.artefact.arrays.keys() and one.report.shape == two.report.shape
    a, b = (m.artefact.arrays for m in (one, two))
    ranking = [k for k in a if k.startswith("ranker.") and a[k].dtype == np.float32]
    note(f"largest difference of a weight: {max(float(np.abs(a[k] - b[k]).max(initial=0)) for k in ranking):.1e}")
    for k in ranking:
        np.testing.assert_allclose(a[k], b[k], rtol=1e-3, atol=1e-3)
    told = {"Toy Story (1995)": 5}
    assert len(two.recommend(told)) == 10
    pd.testing.assert_series_equal(one.recommend(told).score, two.recommend(told).score, rtol=1e-2)

    code, _, err = finished(started(torchrun(*asked, "two", "--resume", module="saerec"), tmp_path))
    assert code == 0 and "it is finished" in err, err
    code, _, err = finished(started(torchrun("train", "--data", "nowhere.csv", module="saerec"), tmp_path))
    assert code == 1 and err.count("saerec: nowhere.csv: neither a file or folder") == 1, err


SLOW_TO_SAY = """
import os, sys, time
if os.environ.get("RANK") == "0":
    write = sys.stderr.write
    def later(text):
        if text.startswith("saerec: "): time.sleep(0.7)
        return write(text)
    sys.stderr.write = later
"""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "nowhere.csv"], "saerec: nowhere.csv: neither a file or folder"),
        pytest.param(["--epochs", "0"], "saerec: --epochs 0: it has to be 1 or more", marks=pytest.mark.slow),
        pytest.param(["--timeout", "nan"], "saerec: --timeout nan: it has to be above 0", marks=pytest.mark.slow),
    ],
)
def test_fault_in_every_process(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    "One sentence, told by the process of rank 0 although it is slow: torchrun ends it as soon as another has left."
    (tmp_path / "slow").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW_TO_SAY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "slow"), os.environ.get("PYTHONPATH", "")]))
    code, out, err = finished(started(torchrun(*arguments), tmp_path / "here"))
    assert code == 1 and not out
    assert err.count(sentence) == 1, err
    assert "saerec/" not in err and not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "nowhere.csv"], "nowhere.csv: neither a file or folder"),
        (["--held-out", "671"], "671 people cannot be held out: "),
        (["--epochs", "0"], "--epochs 0: it has to be 1 or more"),
        (["--lr", "nan"], "--lr nan: it has to be above 0"),
        (["--only-score"], "weights.safetensors: it is no readable file of saerec (No such file"),
        (["--threshold", "9"], "0 have 5 likes or more"),
        (["--out", "file"], "file/checkpoint.safetensors: it cannot be written"),
    ],
)
def test_fault(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("something else")
    assert main(arguments) == 1
    out, err = capfd.readouterr()
    assert not out and err.startswith("saerec: ") and err.count("\n") == 1 and sentence in err, err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seed", "4"], "of another training (seed 3 in place of 4"),
        (["--threshold", "3"], "of another training (threshold 4.0 in place of 3.0"),
        (["--held-out", "50"], "of another training (held_out 100 in place of 50"),
        (["--lr", "1"], "of another training (settings"),
    ],
)
def test_checkpoint_of_another_training(
    arguments: list[str], sentence: str, two: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(two / "checkpoint.safetensors", tmp_path)
    assert main(["--out", str(tmp_path), *SETTINGS, *arguments]) == 1
    err = capfd.readouterr().err
    assert sentence in err.splitlines()[-1] and "Traceback" not in err
