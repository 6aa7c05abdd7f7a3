"""Candor: six published claims about RLHF and overconfidence, replicated."""

__version__ = "0.1.0"
