"""What should I watch: titles in, films with reasons out."""
from ..lazy import front_door

__getattr__, __all__ = front_door(__name__, {
    "recommender": "Recommender fit_recommender measure",
    "reasons": "plot_explanation",
    "spelling": "plain_title",
    "titles": "TitleWarning Titles",
    "own": "OwnRatings own_ratings",
    "card": "model_card verdict",
    "artefact": "Artefact read_artefact write_artefact",
    "training": "SAE compute_report make_splits plan_training train",
})
