"""Many processes: the losses of one, a training that outlives its processes, scores in parts that are the whole.

A fault is one sentence. Most groups are started here, in the way of `torchrun` and from a server that has torch
already; the whole job runs under `torchrun` itself, and with --slow so do the signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import torch.distributed as dist
from conftest import START
from safetensors import safe_open

from saerec.cli.command import main as saerec
from saerec.data import load_movielens, write_csr
from saerec.recommend import Recommender
from saerec.train.program import load_network, main, read_scores

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
SETTINGS = ["--epochs", "6", "--hidden", "32", "16", "--batch-size", "32", "--seed", "3"]


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


def say_slowly(stream: Any) -> None:
    write = stream.write

    def later(text: str) -> int:
        if text.startswith("saerec: "):
            time.sleep(0.7)
        return write(text)

    stream.write = later


def one_of_group(env: dict[str, str], said: list[str], cwd: Path, program: Callable, arguments: list[str]) -> None:
    "The life of a process, with what it says in files."
    os.environ |= env
    os.chdir(cwd)
    for fd, file in ((1, said[0]), (2, said[1])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), fd)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)
    if env["RANK"] == "0" and "SLOW_TO_SAY" in env:
        say_slowly(sys.stderr)
    code = program(arguments)
    sys.stdout.flush()
    os._exit(code)


class Group:
    "Two processes as `torchrun` starts them: with its variables and its store, and none outlives a fault of another."

    def __init__(self, cwd: Path, *arguments: object, program: Callable = main, start: int = 0, **env: str) -> None:
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        env |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": str(start)}
        self.said = [f"{cwd}-stdout-{start}", f"{cwd}-stderr-{start}"]
        for file in self.said:
            Path(file).write_text("")
        self.processes = []
        for rank in ("0", "1"):
            own = env | {"RANK": rank, "LOCAL_RANK": rank}
            args = (own, self.said, cwd, program, [*map(str, arguments)])
            self.processes.append(START.Process(target=one_of_group, args=args))
            self.processes[-1].start()

    def wait_for(self, file: Path, epoch: int) -> int:
        "Wait until an epoch is in a checkpoint; which it is by then."
        return wait_for_epoch(file, epoch, lambda: all(p.is_alive() for p in self.processes))

    def end(self) -> tuple[list[int | None], str, str]:
        "Exit codes and what was said, when all have ended; as soon as one has failed, the others are told to."
        until = time.monotonic() + 120
        while time.monotonic() < until and any(p.is_alive() for p in self.processes):
            if any(p.exitcode for p in self.processes):
                for p in self.processes:
                    p.terminate()
            time.sleep(0.02)
        for p in self.processes:
            p.kill()
            p.join(10)
        out, err = (Path(file).read_text() for file in self.said)
        return [p.exitcode for p in self.processes], out, err


def wait_for_epoch(file: Path, epoch: int, alive: Callable[[], bool]) -> int:
    until = time.monotonic() + 60
    while time.monotonic() < until and alive():
        if file.exists():
            with safe_open(file, "pt") as f:
                done = json.loads(f.metadata()["saerec"])["epoch"]
            if done >= epoch:
                return done
        time.sleep(0.02)
    pytest.fail(f"epoch {epoch} was not reached")


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
    codes, out, err = Group(folder, "--out", "run", "--score", *SETTINGS).end()
    assert codes == [0, 0] and "Traceback" not in err and "Warning" not in err, err
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


def same_training(a: Path, b: Path) -> bool:
    pd.testing.assert_frame_equal(losses(a), losses(b), check_exact=True)
    return same_network(a, b) and not list(a.glob(".*"))  # no halves of files are left


def test_killed(two: Path, tmp_path: Path) -> None:
    "The process that writes is killed: started again, the end is that of an undisturbed training, bit for bit."
    first = Group(tmp_path, "--out", "run", *SETTINGS)
    first.wait_for(tmp_path / "run/checkpoint.safetensors", 2)
    first.processes[0].kill()
    assert first.end()[0][0] == -signal.SIGKILL

    codes, _, err = Group(tmp_path, "--out", "run", *SETTINGS, start=1).end()
    assert codes == [0, 0] and err.count("training goes on from there") == 1, err
    assert same_training(tmp_path / "run", two)


def test_ended(two: Path, tmp_path: Path) -> None:
    "SIGTERM ends all processes at once; the checkpoint leads one process to the undisturbed end."
    group = Group(tmp_path, "--out", "run", *SETTINGS)
    group.wait_for(tmp_path / "run/checkpoint.safetensors", 1)
    for p in group.processes:
        p.terminate()
    codes, _, err = group.end()
    assert codes == [143, 143]
    assert err.splitlines()[-1:] == [
        "saerec: ended by SIGTERM; the epochs that were finished are in run/checkpoint.safetensors."
    ], err
    assert main(["--out", str(tmp_path / "run"), *SETTINGS]) == 0
    pd.testing.assert_frame_equal(losses(tmp_path / "run"), losses(two), rtol=1e-4)


def kill(p: subprocess.Popen[str], rank: int, start: int, file: Path, epoch: int) -> int:
    "Kill one process of the given start of them all, when an epoch is finished; which epoch it was."
    until = time.monotonic() + 60
    while time.monotonic() < until:
        done = wait_for_epoch(file, epoch, lambda: p.poll() is None)
        for c in psutil.Process(p.pid).children():
            try:
                who = c.environ()
            except psutil.Error:
                continue  # it is going or coming
            if (who.get("RANK"), who.get("TORCHELASTIC_RESTART_COUNT")) == (str(rank), str(start)):
                c.kill()
                return done
        time.sleep(0.02)
    p.terminate()
    pytest.fail(f"there is no process of rank {rank}: {p.communicate(timeout=60)}")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [[0], [1, 0]])
def test_killed_under_torchrun(ranks: list[int], two: Path, tmp_path: Path) -> None:
    "`torchrun` starts all again."
    p = started(torchrun("--out", "run", *SETTINGS, restarts=len(ranks)), tmp_path)
    epoch = 0
    for start, rank in enumerate(ranks):
        epoch = kill(p, rank, start, tmp_path / "run/checkpoint.safetensors", epoch + 2)
    code, _, err = finished(p)
    assert code == 0, err
    assert err.count("training goes on from there") == len(ranks)
    assert same_training(tmp_path / "run", two)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_with_torchrun(number: int, two: Path, tmp_path: Path) -> None:
    "SIGTERM to `torchrun`, or its death, ends all processes at once; the checkpoint leads to the undisturbed end."
    p = started(torchrun("--out", "run", *SETTINGS, restarts=3), tmp_path)
    wait_for_epoch(tmp_path / "run/checkpoint.safetensors", 1, lambda: p.poll() is None)
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
    well_known = np.flatnonzero(np.bincount(r.movie) >= 80)
    r.only_movies(well_known).frame().to_csv(path, index=False)
    return path


def test_whole_job(tmp_path: Path, note) -> None:
    """`saerec train` shared by two, of which one is killed, and which are ended once more: what it writes at last,
    under `torchrun` itself, is what one process writes. Another call finds it done."""
    data, training = small_ratings(tmp_path / "ratings.csv"), tmp_path / ".two-training"
    asked = ["train", "--data", data, "--epochs", "3", "--out"]
    assert saerec([*map(str, asked), str(tmp_path / "one")]) == 0

    group = Group(tmp_path, *asked, "two", program=saerec)
    group.wait_for(training / "likes.safetensors", 1)
    group.processes[1].kill()
    assert group.end()[0][1] == -signal.SIGKILL
    group = Group(tmp_path, *asked, "two", program=saerec, start=1)  # as `torchrun` starts them again
    group.wait_for(training / "ranking-0.safetensors", 1)
    for p in group.processes:
        p.terminate()
    codes, _, err = group.end()
    assert codes == [143, 143] and "going on with the training that was stopped" in err, err

    code, out, err = finished(started(torchrun(*asked, "two", "--resume", module="saerec"), tmp_path))
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

    codes, _, err = Group(tmp_path, *asked, "two", "--resume", program=saerec).end()
    assert codes == [0, 0] and "it is finished" in err, err
    codes, _, err = Group(tmp_path, "train", "--data", "nowhere.csv", program=saerec).end()
    assert codes[0] == 1 and err.count("saerec: nowhere.csv: neither a file or folder") == 1, err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "nowhere.csv"], "saerec: nowhere.csv: neither a file or folder"),
        (["--epochs", "0"], "saerec: --epochs 0: it has to be above 0"),
        (["--timeout", "nan"], "saerec: --timeout nan: it has to be above 0"),
    ],
)
def test_fault_in_every_process(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    "One sentence, told by the process of rank 0 although it is slow: it is ended as soon as another has left."
    (tmp_path / "here").mkdir()
    codes, out, err = Group(tmp_path / "here", *arguments, SLOW_TO_SAY="yes").end()
    assert codes[0] == 1 and not out
    assert err.count(sentence) == 1, err
    assert "saerec/" not in err and not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "nowhere.csv"], "nowhere.csv: neither a file or folder"),
        (["--held-out", "671"], "671 people cannot be held out: "),
        (["--epochs", "0"], "--epochs 0: it has to be above 0"),
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
