"""What should I watch: titles in, films with reasons out."""
from ..lazy import front_door

__getattr__, __all__ = front_door(__name__, {
    "recommender": "Recommender column_major_decoder explain left_out plot_explanation recommend_many similar",
    "spelling": "plain_title",
    "titles": "TitleWarning Titles",
    "own": "OwnRatings own_ratings",
    "filters": "FEW_LIKES allowed_movies diversify genre_masks",
    "training": "SAE choose_ranker fit_baselines fit_ranker fit_recommender held_out_users make_splits measure report "
                "settings_for_many verdict",
    "artefact": "load save",
    "card": "model_card",
})
