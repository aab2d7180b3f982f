"""A literate movie recommender: stacked autoencoders on MovieLens, with honest evaluation."""
__version__ = "0.1.0"
