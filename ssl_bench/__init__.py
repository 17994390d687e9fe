"""ssl-bench: a comparative semi-supervised-learning benchmark for image classification."""

__version__ = "0.1.0"
