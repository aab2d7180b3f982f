"""tools/peers.py: one scorer for all, and a row with the reason for a peer that gives no figures."""
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from saerec.evaluate import rank_metrics
from saerec.evaluate.baselines import EASE

TOOL = Path(__file__).resolve().parents[1] / "tools" / "peers.py"
if not TOOL.is_file(): pytest.skip("tools/peers.py is not there", allow_module_level=True)


@pytest.fixture
def peers():
    spec = importlib.util.spec_from_file_location("peers", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_venv(call):
    "The same, with this Python in place of one in an environment, which takes seconds to make."
    def quick(command: list[str], timeout: float, **options):
        if command[1:3] != ["-m", "venv"]: return call(command, timeout, **options)
        (place := Path(command[-1]) / "bin").mkdir(parents=True)
        (place / "python").symlink_to(sys.executable)
    return quick


def test_rows_and_reasons(
    peers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    """saerec's EASE through the files and the scorer is EASE as `rank_metrics` measures it.

    A library that cannot be installed is a row with the reason."""
    monkeypatch.setitem(peers.REQUIRED, "implicit", [str(tmp_path / "no-such-package.whl")])
    monkeypatch.setattr(peers, "call", without_venv(peers.call))
    work, out = tmp_path / "work", tmp_path / "out.json"
    options = ["--work", str(work), "--out", str(out), "--peers", "saerec-ease", "implicit-als"]
    monkeypatch.setattr(sys, "argv", ["peers.py", *options])
    assert peers.main() == 0

    found = json.loads(out.read_text())["results"]
    assert found["implicit-als"].keys() == {"skipped"}
    assert found["implicit-als"]["skipped"].startswith("not installed: ")
    printed = capsys.readouterr().out
    assert "skipped: implicit, ALS: not installed" in printed and str(tmp_path) not in printed

    split = peers.make_split("bundled", 0)
    model = EASE(250.0).fit(split.train)
    for part, held in (("valid", split.valid), ("test", split.final())):
        ours = rank_metrics(model, held, ["NDCG@10"])["NDCG@10"].mean()
        assert found["saerec-ease"][part] == pytest.approx(ours, abs=1e-4)
    with np.load(work / "runs" / "bundled.npz") as cells: assert not [k for k in cells.files if "test" in k]


def test_seen_movies_are_refused(peers) -> None:
    "Lists that hold a movie known to be seen are an error, not a figure."
    split = peers.make_split("bundled", 0)
    top = np.full((split.train.n_users, 100), -1)
    top[split.valid.target.user[0], 0] = split.valid.target.movie[0]
    with pytest.raises(peers.Skipped, match="known to be seen"):
        peers.account({"top": {"valid": top, "test": top}}, split, split.final())
