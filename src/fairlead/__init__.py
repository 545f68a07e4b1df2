"""Fairlead releases machine-learning models and leads traffic to them."""

__version__ = "0.1.0"
