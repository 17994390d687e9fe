"""Measure the suite, A against B in turn on the same work, and make docs/performance.md from the records.

    python tools/bench.py augment     weak + strong views on the device / the per-image Pillow pipeline; a memory copy
    python tools/bench.py step        ERM and FixMatch / bare loops; memory; where a step's time goes; networks on a GPU
    python tools/bench.py loader      decoding and cropping, from files and from the cache / the per-image Pillow pipeline
    python tools/bench.py ema         the moving average / a loop over parameters; its share of a step
    python tools/bench.py mixing      probabilistic pseudo mixup / a loop over images; its share of a step
    python tools/bench.py streams     Semiformer's step / a bare loop; memory; channels last; compiling
    python tools/bench.py positional  relative labels of positions / all pairs put together; what --positional costs a step
    python tools/bench.py startup     process start to the end of the first step; ssl-bench --help
    python tools/bench.py table       run folders -> table, with and without an index / reading the same files; memory
    python tools/bench.py page        docs/performance.md from results/bench/*.json

Each but `page` prints a table and writes results/bench/<what>-<device>.json.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

BENCHMARKS = ("augment", "step", "loader", "ema", "mixing", "streams", "positional", "startup", "table")
RESULTS = Path(__file__).resolve().parent.parent / "results" / "bench"


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("what", choices=(*BENCHMARKS, "page"), metavar="WHAT", help=", ".join((*BENCHMARKS, "page")))
    add("--rounds", type=int, metavar="N", help="timed rounds of A and B (default: the benchmark's own)")
    add("--threads", type=int, metavar="N", help="torch threads (default: the benchmark's own)")
    add("--device", default="auto", help="cpu, cuda or auto (default: %(default)s)")
    add("--only", default="", metavar="TEXT", help="rows whose case contains TEXT; the file is then not written")
    add("--tiny", action="store_true", help="least work, to try the command; the file is then not written")
    add("--update", action="store_true", help="with --only: put those rows into the file that is there")
    add("--out", type=Path, metavar="FOLDER", help="where the JSON goes (default: results/bench)")
    given = parser.parse_args(argv)
    if given.what == "page":
        from benchmarks import page

        return page.main(RESULTS)
    from benchmarks import harness  # torch, which --help and a wrong word do without

    command = f"python tools/bench.py {_shown(given)}"
    options = harness.Options(given.rounds, given.threads, given.device, given.tiny, given.only, command)
    record = importlib.import_module(f"benchmarks.{given.what}").run(options)
    print(f"{harness.heading(record)}\n\n{harness.table(record)}")
    folder = given.out or (None if given.tiny or (given.only and not given.update) else RESULTS)
    if folder is not None:
        record = harness.updated(record, folder) if given.update else record
        print(f"\nwrote {harness.write(record, folder)}")
    return 0


def _shown(given: argparse.Namespace) -> str:
    """The command line without the folder, which is the machine's own."""
    flags = [f"--{name} {value}" for name in ("rounds", "threads", "only") if (value := getattr(given, name))]
    flags = [f"{name} '{given.only}'" if (name := flag.split()[0]) == "--only" else flag for flag in flags]
    flags += ["--update"] * given.update
    flags += [f"--device {given.device}"] * (given.device != "auto") + ["--tiny"] * given.tiny
    return " ".join([given.what, *flags])


if __name__ == "__main__":
    sys.exit(main())
