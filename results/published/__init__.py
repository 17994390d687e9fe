"""Published numbers, one csv a table; `ssl_bench.published` reads them.

tllib_*: both tables of TLlib's README.  It says neither which epoch nor which accuracy they are; its code reports the best
top-1 over epochs, on the test set.  One split, seed 0.
"""
