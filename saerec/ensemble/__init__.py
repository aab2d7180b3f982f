"""Networks and closed forms averaged: `rank_ensemble` ranks, `rating_stack` predicts likes and stars."""
from ..lazy import front_door

__getattr__, __all__ = front_door(
    __name__,
    combining="Ensemble as_tensors from_tensors standardize",
    content="Content",
    sessions="SessionEDLAE SessionKernelRidge TimedEnsemble known_times split_sessions",
    ranking="closed_forms fit_again rank_ensemble train_network",
    ratings="RatingStack ensemble_for rating_stack",
)
