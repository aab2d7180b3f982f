"""What should I watch: titles in, films with reasons out."""
from ..lazy import front_door

__getattr__, __all__ = front_door(
    __name__,
    recommender="Recommender model_card verdict",
    lists="plot_explanation",
    titles="TitleWarning Titles",
    own="OwnRatings own_ratings",
    artefact="Artefact read_artefact write_artefact",
    plan="SAE make_splits plan_training",
    training="compute_report train",
    tuning="SPACE Tuning tune",
)
