"""One benchmark a file, each `run(options) -> dict`; `tools/bench.py` is their door, `harness` what they share."""
