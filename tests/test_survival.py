"""A training that is killed at any moment, also while it writes its checkpoint, ends with the same weights.

So does one that is stopped by Ctrl-C or by a full disk. Two trainings do not get into each other's way.
Three kills (SIGKILL) in the default run, fifty with --slow."""

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from conftest import START
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from saerec.cli import training as cli_training
from saerec.cli.command import main
from saerec.data import InputError, load_movielens, split_users
from saerec.disk import exclusive_lock
from saerec.recommend import Recommender
from saerec.train import fit, loop as train_module, make_model
from saerec.train.program import main as program

EPOCHS = 8


def work(folder: str, started, finished) -> None:
    "One training from wherever its checkpoint is, in a process of its own."
    r = load_movielens()
    r = r.only_movies(np.flatnonzero(np.bincount(r.movie) >= 10))
    split = split_users(r.likes(), seed=0)
    model = make_model("ranking", split.train.n_movies, hidden=(64, 16), dropout=0.2, seed=0)
    started.set()
    fit(
        model,
        split,
        "ranking",
        epochs=EPOCHS,
        batch_size=128,
        patience=EPOCHS,
        say=None,
        checkpoint=f"{folder}/training.safetensors",
    )
    save_file(model.state_dict(), f"{folder}/weights.safetensors")
    finished.set()


def run(folder: Path, kill_after: float | None = None) -> float:  # seconds that it trained
    "Start a training, and kill it after some seconds or wait for its end."
    started, finished = START.Event(), START.Event()
    p = START.Process(target=work, args=(str(folder), started, finished))
    p.start()
    assert started.wait(120), "the training did not begin"
    begin = time.perf_counter()
    if kill_after is None:
        assert finished.wait(300), "the training did not end"
    elif not finished.wait(kill_after):
        os.kill(p.pid or 0, signal.SIGKILL)
    seconds = time.perf_counter() - begin
    p.join(60)
    assert kill_after is not None or p.exitcode == 0
    return seconds


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments(kills: int, tmp_path: Path, note) -> None:
    rng, done, half, rounds = random.Random(0), 0, 0, 0
    (tmp_path / "whole").mkdir()
    seconds = run(tmp_path / "whole")
    wanted = load_file(tmp_path / "whole" / "weights.safetensors")
    while done < kills:
        folder = tmp_path / f"round {rounds}"
        folder.mkdir()
        for _ in range(3):
            run(folder, rng.uniform(0, 0.6 * seconds))
            done += not (folder / "weights.safetensors").exists()
            half += any(folder.glob(".*.new"))
        run(folder)
        found = load_file(folder / "weights.safetensors")
        assert all(torch.equal(wanted[k], found[k]) for k in wanted), f"round {rounds} ended with other weights"
        rounds += 1
    note(
        f"{done} kills in {rounds} trainings of {seconds:.1f} s, {half} of them while a checkpoint was written; "
        "all ended with the same weights"
    )


# --- `saerec train` where something goes wrong around it ---

SMALL = ["--epochs", "4", "--held-out", "15", "--ranker", "network"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "100 people and the movies that are often rated: a training of two seconds."
    r = load_movielens()
    r = r.select(r.user < 100)
    file = tmp_path_factory.mktemp("data") / "small.csv"
    r.only_movies(np.flatnonzero(np.bincount(r.movie, minlength=r.n_movies) >= 10)).frame().drop(columns="time").to_csv(
        file, index=False
    )
    return file


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    "The weights of a training that nothing happens to."
    out = tmp_path_factory.mktemp("undisturbed") / "model"
    assert main(["train", "--data", str(data), "--out", str(out), *SMALL, "--json"]) == 0
    return (out / "weights.safetensors").read_bytes()


def goes_on(data: Path, out: Path, undisturbed: bytes) -> None:
    "With --resume a training ends with the weights of one that nothing happened to, and leaves nothing behind."
    assert main(["train", "--data", str(data), "--out", str(out), *SMALL, "--json", "--resume"]) == 0
    assert (out / "weights.safetensors").read_bytes() == undisturbed
    assert [o.name for o in out.parent.iterdir()] == [out.name]


def one_sentence(code: int | None, err: str, *parts: str) -> None:
    told = [
        line for line in err.splitlines() if line.startswith("saerec: ") and not line.startswith("saerec: warning: ")
    ]
    assert code == 1 and "Traceback" not in err and len(told) == 1, err
    assert all(p in told[0] for p in parts) and told[0].endswith("."), told[0]


def shell(trick: Callable[[], None], out: str, err: str, argv: list[str]) -> None:
    "What a shell does with `saerec`, in a process that has torch already, after something was tampered with."
    for fd, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), fd)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background of a shell inherits "ignore"
    trick()
    code = main(argv)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


class Train:
    "`saerec train` in a process of its own."

    def __init__(self, trick: Callable[[], None], data: Path, out: Path, notes: Path, *options: str) -> None:
        self.files = notes / "stdout", notes / "stderr"
        asked = ["train", "--data", str(data), "--out", str(out), *(options or SMALL), "--json"]
        self.process = START.Process(target=shell, args=(trick, *map(str, self.files), asked))
        self.process.start()
        self.pid = self.process.pid or 0

    def wait_for(self, text: str) -> None:
        until = time.monotonic() + 60
        while not self.files[1].exists() or text not in self.files[1].read_text():
            assert self.process.is_alive() and time.monotonic() < until, f"it ended before {text!r}"
            time.sleep(0.02)

    def end(self) -> tuple[int | None, str, str]:
        self.process.join(60)
        return self.process.exitcode, self.files[0].read_text(), self.files[1].read_text()


def count_checkpoints(then: Callable[[int, str], None], before: bool) -> None:
    "Write a checkpoint after every epoch, and do something before or after those of the second network."
    calls, real, clock = 0, train_module.save_checkpoint, iter(range(0, 10**9, 100))

    def save(path: Any, *rest: Any) -> None:
        nonlocal calls
        calls += "ranking" in str(path)
        if before:
            then(calls, str(path))
        real(path, *rest)
        if not before:
            then(calls, str(path))

    train_module.save_checkpoint = save
    train_module.time.perf_counter = lambda: float(next(clock))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    "A file system of some megabytes."
    if os.name == "nt" or os.getuid() or not shutil.which("mount"):
        pytest.skip("a small file system can be mounted by root only")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fills_the_disk() -> None:
    def fill(calls: int, path: str) -> None:
        if calls == 3:
            Path(path).parent.with_name("ballast").write_bytes(
                bytes(shutil.disk_usage(Path(path).parent).free - 100_000)
            )

    count_checkpoints(fill, before=True)


def test_full_disk(full_disk: Path, data: Path, tmp_path: Path, undisturbed: bytes) -> None:
    "A disk that is full at the third epoch of the second network: one sentence; with room the training goes on."
    code, out, err = Train(fills_the_disk, data, full_disk / "model", tmp_path).end()
    one_sentence(code, err, "No space left on device", "ranking.safetensors", "what was there is unchanged")
    where = full_disk / ".model-training"
    assert out == "" and sorted(o.name for o in where.iterdir()) == [
        "likes.safetensors",
        "ranking.safetensors",
        "settings.json",
    ]
    with safe_open(where / "ranking.safetensors", "pt") as f:
        assert json.loads(f.metadata()["saerec"])["epoch"] == 2
    (full_disk / "ballast").unlink()
    goes_on(data, full_disk / "model", undisturbed)


def allows_no_large_file() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="this system has no RLIMIT_FSIZE")
def test_no_file_so_large(data: Path, tmp_path: Path) -> None:
    "A limit on the size of files, met by the first checkpoint: one sentence, and nothing is left."
    (tmp_path / "place").mkdir()
    code, out, err = Train(allows_no_large_file, data, tmp_path / "place" / "model", tmp_path).end()
    one_sentence(code, err, "likes.safetensors: it cannot be written", "File too large")
    assert out == "" and list((tmp_path / "place").iterdir()) == []


def obeys_modes() -> None:
    "root without its capabilities: the owner of its files, but no more than that."
    libc = ctypes.CDLL(None, use_errno=True)
    version_3, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # of capset(2)
    if libc.capset(version_3, nothing):
        raise OSError(ctypes.get_errno(), "capset")


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_read_only_folder(data: Path, tmp_path: Path) -> None:
    "One sentence before anything is trained, and nothing is written."
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        os.chmod(place, 0o555)
        (Path(place) / "small.csv").write_bytes(data.read_bytes())
        code, out, err = Train(obeys_modes, Path(place) / "small.csv", Path(place) / "model", tmp_path).end()
        one_sentence(code, err, "Permission denied")
        assert out == "" and "epoch" not in err and os.listdir(place) == ["small.csv"]


def in_the_way(place: Path) -> dict[str, tuple[str, str]]:  # what it is -> where the model should be; what is said
    "Things that no model may replace, in a folder of their own."
    (place / "file").write_text("mine")
    (place / "folder").mkdir()
    (place / "folder" / "mine.txt").write_text("mine")
    for link, target in (("dangling", "nowhere"), ("loop", "loop"), ("to a file", "file"), ("to a folder", "folder")):
        (place / link).symlink_to(target)
    if hasattr(os, "mkfifo"):
        os.mkfifo(place / "pipe")
    taken = "there is something else there already"
    found = {
        "below a file": ("file/model", "it cannot be written"),
        "dangling link": ("dangling", "a link that leads nowhere"),
        "circle": ("loop", "a link that leads nowhere"),
        "root": ("/", "needs a name of its own"),
        "nothing": ("", "needs a name of its own"),
        "NUL": ("a\0b", "needs a name of its own"),
        "long name": ("x" * 5000, "name too long"),
        "no text": ("\udcff", "needs a name of its own"),
        "device": (os.devnull, taken),
    }
    return found | {
        k: (k, taken) for k in ("file", "folder", "to a file", "to a folder", "pipe") if (place / k).exists()
    }


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own on Windows")
def test_something_in_the_way(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    "What is no place for a model is said before anything is trained, and stays what it is."

    def look() -> dict[str, object]:
        return {
            str(f.relative_to(tmp_path)): f.read_bytes()
            if f.is_file() and not f.is_symlink()
            else os.readlink(f)
            if f.is_symlink()
            else f.stat().st_ino
            for f in tmp_path.rglob("*")
        }

    cases = in_the_way(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Recommender, "fit", lambda *_, **__: pytest.fail("it was trained"))
    before = look()
    for what, (out, said) in cases.items():
        code = main(["train", "--data", str(data), "--out", out, *SMALL])
        err = capsys.readouterr().err
        one_sentence(code, err)
        assert said in err.lower().replace("file name", "name") and look() == before, (what, err)


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own on Windows")
def test_no_model_is_saved_over_something_else(tmp_path: Path) -> None:
    rec = Recommender.load(Path(__file__).parent / "fixtures" / "model-1")
    cases = in_the_way(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    for what in ("file", "folder", "dangling link", "circle", "pipe", "to a file", "to a folder", "below a file"):
        with pytest.raises(InputError):
            rec.save(tmp_path / cases[what][0])
        assert (
            sorted(p.name for p in tmp_path.iterdir()) == before
            and (tmp_path / "file").read_text() == "mine"
            and len(list((tmp_path / "folder").iterdir())) == 1
        ), what


def steps_slowly(seconds: float = 0.1) -> None:
    real = train_module.Training.my_part

    def step(*args: Any) -> Any:
        time.sleep(seconds)
        return real(*args)

    train_module.Training.my_part = step  # type: ignore[method-assign]


def loads_for_a_minute() -> None:
    def load(*_: Any) -> Any:
        print("loading", file=sys.stderr, flush=True)
        time.sleep(60)

    cli_training.get_data = load


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C cannot be sent to one process on Windows")
@pytest.mark.parametrize(("trick", "text"), [(steps_slowly, "likes epoch 1/4"), (loads_for_a_minute, "loading")])
def test_ctrl_c(trick: Callable[[], None], text: str, data: Path, tmp_path: Path, undisturbed: bytes) -> None:
    "SIGINT from outside, in an epoch and before training: one sentence, exit code 130, nothing lost."
    (tmp_path / "place").mkdir()
    p = Train(trick, data, tmp_path / "place" / "model", tmp_path)
    p.wait_for(text)
    time.sleep(0.15)
    os.kill(p.pid, signal.SIGINT)
    code, out, err = p.end()
    assert (code, out) == (130, "") and "Traceback" not in err
    if trick is loads_for_a_minute:
        assert (
            err.splitlines()[-1] == "saerec: stopped; nothing was written."
            and list((tmp_path / "place").iterdir()) == []
        )
        return
    assert err.splitlines()[-1] == "saerec: stopped; the same command with --resume goes on."
    with safe_open(tmp_path / "place" / ".model-training" / "likes.safetensors", "pt") as f:
        assert json.loads(f.metadata()["saerec"])["epoch"] >= 1 and len(f.get_tensor("losses")) >= 1, (
            "the epoch that was begun is lost"
        )
    goes_on(data, tmp_path / "place" / "model", undisturbed)


def waits_at_the_second() -> None:
    def wait(calls: int, path: str) -> None:
        if calls == 2:
            print("second checkpoint", file=sys.stderr, flush=True)
            time.sleep(60)

    count_checkpoints(wait, before=False)


def test_two_trainings(data: Path, tmp_path: Path, undisturbed: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    "The second is refused, and deletes nothing; once the first is killed its half-written file goes."
    (tmp_path / "place").mkdir()
    model, where = tmp_path / "place" / "model", tmp_path / "place" / ".model-training"
    p = Train(waits_at_the_second, data, model, tmp_path)
    p.wait_for("second checkpoint")
    before = sorted(where.iterdir())
    for resume in ([], ["--resume"]):
        code = main(["train", "--data", str(data), "--out", str(model), *SMALL, *resume])
        one_sentence(code, capsys.readouterr().err, "another training is writing there")
    split = split_users(load_movielens().likes(), seed=0)
    with pytest.raises(InputError, match="another training is writing there"):
        fit(make_model("ranking", split.train.n_movies, hidden=(8,)), split, checkpoint=where / "ranking.safetensors")
    assert sorted(where.iterdir()) == before and len(before) == 5  # two checkpoints, two locks, the settings
    p.process.kill()
    p.process.join(60)
    (half := where / f".ranking.safetensors.{p.pid}.new").write_bytes(b"half")
    with exclusive_lock(where / "ranking.safetensors"):
        assert not half.exists()
    goes_on(data, model, undisturbed)


def test_a_rival_of_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    "`python -m saerec.train` into a folder where another is at work: refused, and nothing there is touched."
    with exclusive_lock(tmp_path / "checkpoint.safetensors"):
        (tmp_path / ".checkpoint.safetensors.7.new").write_bytes(b"half of the other")
        before = sorted(o.name for o in tmp_path.iterdir())
        assert program(["--out", str(tmp_path), "--epochs", "1", "--hidden", "8"]) == 1
        assert "another training is writing there" in capsys.readouterr().err
        assert sorted(o.name for o in tmp_path.iterdir()) == before


# --- an ensemble, whose networks train one after the other ---

ENSEMBLE = ["--epochs", "8", "--held-out", "15", "--ranker", "stack"]


def epochs_kept(out: Path) -> dict[str, int]:
    "Those in the checkpoints of the networks of an ensemble, by file."
    found = {}
    for file in (out.parent / f".{out.name}-training").glob("ranking-*.safetensors"):
        with safe_open(file, "pt") as f:
            found[file.name] = json.loads(f.metadata()["saerec"])["epoch"]
    return found


def wait_for_ensemble(pid: int, out: Path, before: dict[str, int]) -> None:
    "Wait until a second network or a further one has kept an epoch more."
    until = time.monotonic() + 120
    while len(kept := epochs_kept(out)) < 2 or kept == before:
        assert psutil.pid_exists(pid) and time.monotonic() < until, "the networks of the ensemble did not begin"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed_ensemble(data: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    "The weights of an ensemble whose training nothing happened to."
    out = tmp_path_factory.mktemp("undisturbed") / "model"
    assert main(["train", "--data", str(data), "--out", str(out), *ENSEMBLE, "--json"]) == 0
    return (out / "weights.safetensors").read_bytes()


GOES_ON = "the same command with --resume goes on."
ENDS: dict[str, tuple[int, bool, int, str]] = {  # how -> signal, to all of the group?, exit code, what is said at last
    "SIGTERM, as Docker sends it": (signal.SIGTERM, False, 143, f"saerec: ended by SIGTERM; {GOES_ON}"),
    "SIGTERM to all, as systemd sends it": (signal.SIGTERM, True, 143, f"saerec: ended by SIGTERM; {GOES_ON}"),
    "Ctrl-C": (signal.SIGINT, True, 130, f"saerec: stopped; {GOES_ON}"),
    "SIGKILL": (signal.SIGKILL, False, -signal.SIGKILL, ""),
}


def ended(how: str, data: Path, out: Path, *options: str) -> None:
    "Send a signal to a training that is under way: one line says how to go on."
    number, _, code, said = ENDS[how]
    before, p = epochs_kept(out), Train(partial(steps_slowly, 0.02), data, out, out.parent.parent, *ENSEMBLE, *options)
    wait_for_ensemble(p.pid, out, before)
    os.kill(p.pid, number)
    left(p.end(), code, said)


def left(end: tuple[int | None, str, str], code: int, said: str) -> None:
    assert end[0] == code and "Traceback" not in end[2], end
    if said:
        assert end[2].splitlines()[-1] == said and end[2].count("--resume") == 1


def ensemble_goes_on(data: Path, out: Path, undisturbed: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    "With --resume the end is that of an undisturbed training."
    assert main(["train", "--data", str(data), "--out", str(out), *ENSEMBLE, "--json", "--resume"]) == 0
    assert "going on with the training that was stopped" in capsys.readouterr().err
    assert (out / "weights.safetensors").read_bytes() == undisturbed
    assert [o.name for o in out.parent.iterdir()] == [out.name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a program hears")
def test_ensemble_goes_on(
    data: Path, tmp_path: Path, undisturbed_ensemble: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    "A training that is ended by SIGTERM in its second network, then killed, comes to the undisturbed end."
    out = tmp_path / "place" / "model"
    ended("SIGTERM, as Docker sends it", data, out)
    ended("SIGKILL", data, out, "--resume")
    ensemble_goes_on(data, out, undisturbed_ensemble, capsys)


def train_ensemble(data: Path, out: Path) -> subprocess.Popen[str]:
    "`saerec train` as a shell starts it, the first of a process group of its own."
    command = [sys.executable, "-m", "saerec", "train", "--data", str(data), "--out", str(out), *ENSEMBLE, "--json"]
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a program hears")
@pytest.mark.parametrize("how", ENDS)
def test_ensemble_ends_in_a_shell(
    how: str, data: Path, tmp_path: Path, undisturbed_ensemble: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "place" / "model"
    number, to_all, code, said = ENDS[how]
    p = train_ensemble(data, out)
    wait_for_ensemble(p.pid, out, {})
    if to_all:
        os.killpg(p.pid, number)
    else:
        os.kill(p.pid, number)
    told, err = p.communicate(timeout=60)
    left((p.returncode, told, err), code, said)
    ensemble_goes_on(data, out, undisturbed_ensemble, capsys)


def dies_at_the_first_network() -> None:
    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    train_module.Training.batches = die  # type: ignore[method-assign,assignment]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_before_anything_was_kept(
    data: Path, tmp_path: Path, undisturbed: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    "Who goes on with such a training is told that it begins anew."
    (tmp_path / "place").mkdir()
    out = tmp_path / "place" / "model"
    assert Train(dies_at_the_first_network, data, out, tmp_path).end()[0] == -signal.SIGKILL
    left = sorted(o.name for o in (out.parent / ".model-training").iterdir())
    assert "settings.json" in left and "likes.safetensors" not in left
    goes_on(data, out, undisturbed)
    assert "had kept nothing yet, so it begins anew" in capsys.readouterr().err
