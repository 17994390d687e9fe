"""Which images stand in a data set twice, by content: test images that are trained on, and what a part repeats.

    python tools/duplicates.py data/cifar10 -d CIFAR10
    python tools/duplicates.py my_data -d ImageFolder --out duplicates.csv

Sets in memory are compared by pixels, which every run does by itself; sets of files by the bytes of the files, of which those are
read that another has the size of.  Exit code 0: none; 1: some, or an error.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence

from ssl_bench import zoo
from ssl_bench.duplicates import of_data_set


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line a kind; with --out write every pair."""
    parser = argparse.ArgumentParser(prog="duplicates.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", help="the folder of the data")
    parser.add_argument("-d", "--data", required=True, help="name of the data set")
    parser.add_argument("--out", help="csv file: part, position, other part, position there")
    args = parser.parse_args(argv)
    try:
        zoo.check_name(args.data)
        found = of_data_set(zoo.load(args.data, args.root, download=False))
        if args.out:
            with open(args.out, "w", encoding="utf-8", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(("part", "position", "other", "position_there"))
                rows.writerows((each.name, *pair) for each in found for pair in each.pairs)
    except (OSError, ValueError) as error:
        print(f"duplicates.py: error: {error}", file=sys.stderr)
        return 1
    for each in found:
        print(each.line())
    if not found:
        print("no image stands there twice")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
