"""``python tools/sweep.py STUDY``: the same as ``ssl-bench study``, for those who know it by this name."""

from __future__ import annotations

import sys

from ssl_bench.study import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
