"""tools/gpu_check.py: every line of it on a CPU, and an exit code that tells when a check fails."""
import importlib.util
from pathlib import Path

import pytest

from synthetic import synthetic_ratings

TOOLS = Path(__file__).resolve().parents[1] / "tools"
if not (TOOLS / "gpu_check.py").is_file(): pytest.skip("tools/gpu_check.py is not there", allow_module_level=True)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(TOOLS)
    spec = importlib.util.spec_from_file_location("gpu_check", TOOLS / "gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_of_it_on_the_cpu(
    tool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tool, "EPOCHS", 2)
    assert tool.main(["--device", "cpu", "--shape", "20000", "--ratings", "40000"]) == 0
    said = capsys.readouterr().out
    assert said.count("ok  ") == 12 and "cpu -> cpu by a checkpoint" in said and said.endswith("0 checks failed\n")
    assert all(f"20000: seconds an epoch, {way}" in said for way in ("saerec", "dense"))
    assert "share of that speed" in said


def test_another_training_is_found_out(tool) -> None:
    "Losses of another seed, and of fewer epochs, are not within the tolerance."
    split = tool.small_split("ranking", synthetic_ratings(40_000))
    one, other, short = (
        tool.trained("ranking", split, "cpu", 256, stop_at=n, seed=s)[1] for n, s in ((2, 0), (2, 1), (1, 0)))
    assert tool.difference(one, one) == 0 and tool.difference(one, other) > tool.TOLERANCE
    assert tool.difference(one, short) > tool.TOLERANCE


def test_exit_codes(tool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--device", "mps"], ["--device", "cuda:9"], ["--device", "cpu", "--shape", "ml-100k"]):
        assert tool.main(wrong) == 1 and capsys.readouterr().err.startswith(f"error: {wrong[-2]} {wrong[-1]}: ")
    monkeypatch.setattr(tool, "figures", lambda device, shape: [])
    monkeypatch.setattr(tool, "checks", lambda device, ratings: [("losses", 0.2, "at most 0.001", False)])
    assert tool.main(["--device", "cpu"]) == 1 and "FAILED" in capsys.readouterr().out
