"""A local web page and a JSON API over one recommender."""
from ..lazy import front_door

__getattr__, __all__ = front_door(__name__, server="LOCAL make_app serve")
