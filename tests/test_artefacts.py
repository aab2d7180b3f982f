"""Folders saved by earlier versions stay readable, and say what they said.

fixtures/model-1 is of format 1: tiny networks on the 150 most rated movies of the bundled ratings, whose licence lies beside it."""
import json
from pathlib import Path

import pytest
import torch

from saerec.data import InputError
from saerec.portable import Portable
from saerec.recommend import Recommender

FIXTURES = Path(__file__).parent / "fixtures"
PERSON = {"Toy Story (1995)": 5, "Heat (1995)": 4, "Fargo (1996)": 4.5}


def test_format_1_is_read() -> None:
    rec, wanted = Recommender.load(FIXTURES / "model-1"), json.loads((FIXTURES / "model-1-expected.json").read_text())
    assert rec.info["format"] == 1
    top = rec.recommend(PERSON, n=5)
    assert top.movie.tolist() == wanted["movie"] and top.because.tolist() == wanted["because"]
    torch.testing.assert_close(torch.tensor(top.score.to_numpy()), torch.tensor(wanted["score"]), rtol=0, atol=2e-5, check_dtype=False)
    torch.testing.assert_close(torch.tensor(top.p_like.to_numpy()), torch.tensor(wanted["p_like"]), rtol=0, atol=2e-5, check_dtype=False)


def test_format_1_is_saved_as_today(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="load and save it again"): Portable(FIXTURES / "model-1")
    rec = Recommender.load(FIXTURES / "model-1")
    plain = Portable(rec.save(tmp_path / "model"))
    stars = {rec.titles.find(t): float(s) for t, s in PERSON.items()}
    assert plain.movie_ids is not None and plain.movie_ids[plain.top(stars, 5)].tolist() == rec.recommend(PERSON, n=5).movie.tolist()
    assert "150 movies" in (tmp_path / "model" / "model_card.md").read_text()
    with pytest.raises(InputError, match="saved without its users' ratings"): rec.recommend(1)
