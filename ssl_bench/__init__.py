"""ssl-bench: a comparative semi-supervised-learning benchmark for image classification."""

__version__ = "0.1.0"
__all__ = ["RunResult", "run", "table"]


def __getattr__(name: str) -> object:
    """The names for users, when they are asked for: ``import ssl_bench`` alone loads nothing."""
    if name == "table":
        from ssl_bench.summary import table

        return table
    if name in __all__:
        from ssl_bench import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
