"""How can a network that copies its input recommend: the stacked autoencoder and its two squared errors."""
from ..lazy import front_door

__getattr__, __all__ = front_door(
    __name__,
    autoencoder="Network StackedAutoencoder observed_mse",
    layers="ACTIVATIONS PlainLayer ResidualLayer bag row_scale",
    gram="Factored catalogue_mse gram_error gram_is_cheaper",
)
