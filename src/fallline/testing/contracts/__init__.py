"""The contracts. Each takes a method and raises AssertionError, with numbers, where the method breaks the promise."""

from fallline.testing.contracts import hyperparameters, numerics, protocol, state, structure

__all__ = ["hyperparameters", "numerics", "protocol", "state", "structure"]
