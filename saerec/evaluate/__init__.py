"""Is it any good: metrics, baselines, protocols and intervals."""
from ..lazy import front_door

__getattr__, __all__ = front_door(__name__, {
    "baselines": "BiasModel EASE EDLAE ItemKNN KernelRidge Popularity announce_memory balance_people batch_matrix "
                 "free_memory like_matrix",
    "evaluation": "Evaluation LOWER_IS_BETTER PairSums RANK_METRICS Scorer Sums auc_by_user best_on_valid "
                  "chosen_on_valid evaluate grouped_auc hits like_metrics like_sums measurable measure_part paired_difference "
                  "plot_forest plot_table predict_cells predicts prepare rank_metrics ranking_value rows_at_once "
                  "standard_baselines star_sums top_k value_of warn_perfect",
    "protocols": "EvaluationProtocol PROTOCOLS find_protocol open_edition split_liang",
    "calibration": "Calibrated Calibration brier_parts calibrate choose_calibration plot_reliability reliability",
    "beyond": "beyond_accuracy by_activity coverage diversity genre_matrix novelty plot_beyond self_information top_lists",
})
