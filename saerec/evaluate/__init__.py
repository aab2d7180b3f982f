"""Is it any good: metrics, baselines, protocols and intervals."""
from ..lazy import front_door

__getattr__, __all__ = front_door(
    __name__,
    baselines="BiasModel EASE EDLAE ItemKNN KernelRidge Popularity announce_memory balance_people batch_matrix "
              "free_memory like_matrix",
    ranking="LIST_METRICS METRICS MetricFunction RANK_METRICS RankMetric Scorer diversity find_metric hits list_sums "
    "rank_metrics rows_at_once self_information top_k top_lists",
    intervals="LOWER_IS_BETTER CoverageSums PairSums Sums paired_difference plot_forest value_of",
    likes="like_metrics like_sums predict_cells predicts star_sums",
    evaluation="Evaluation baselines_to_beat best_on_valid chosen_on_valid compute_metrics evaluate fit_each prepare",
    protocols="EvaluationProtocol PROTOCOLS find_protocol open_edition split_liang",
    calibration="Calibrated Calibration calibrate choose_calibration",
)
