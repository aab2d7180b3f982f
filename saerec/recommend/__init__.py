"""What should I watch: titles in, films with reasons out."""
from ..lazy import front_door

__getattr__, __all__ = front_door(
    __name__,
    recommender="Recommender",
    lists="plot_explanation",
    titles="TitleWarning Titles",
    own="OwnRatings own_ratings",
    card="model_card verdict",
    artefact="Artefact read_artefact write_artefact",
    plan="make_splits plan_training",
    report="SAE",
    training="compute_report train",
    tuning="SPACE Tuning tune",
)
