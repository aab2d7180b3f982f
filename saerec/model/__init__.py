"""How can a network that copies its input recommend: the stacked autoencoder and its two squared errors."""
from ..lazy import front_door

__getattr__, __all__ = front_door(__name__, {
    "autoencoder": "ACTIVATIONS Factored PlainLayer ResidualLayer StackedAutoencoder bag observed_mse row_scale",
    "gram": "catalogue_mse gram_error gram_is_cheaper",
    "drawing": "draw layers",
})
