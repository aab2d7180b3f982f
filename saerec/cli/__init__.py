"""The command `saerec`."""
from ..lazy import front_door

__getattr__, __all__ = front_door(__name__, command="main")
