"""What is a rating, and what does a network read: `Ratings`, readers, likes, splits and sparse rows."""
from ..errors import HonestyWarning as HonestyWarning, InputError as InputError
from ..lazy import front_door

__getattr__, __all__ = front_door(
    __name__,
    ratings="Ratings default_threshold like_share_note summary",
    reading="read_ratings",
    editions="BUNDLED MOVIELENS download_movielens load_bundled load_movielens",
    rows="Batch damped_means row_offset to_batch",
    splits="HeldOut Split leave_one_out split_by_time split_fold split_pairs split_parts split_per_user split_users",
    exchange="open_csr to_csr write_csr write_recbole",
)
