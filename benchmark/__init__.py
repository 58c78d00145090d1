"""SynRep-Bench: a benchmark of visual representations learned from synthetic images."""

__version__ = "0.1.0"
