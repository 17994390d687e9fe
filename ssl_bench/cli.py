"""``ssl-bench``: one word picks a method, a study or a table.  Help needs no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ssl_bench.catalog import load_method, method_summaries

COMMANDS = {
    "study": "train methods x settings x seeds and make the table [default: scikit-learn's digits]",
    "table": "run folders -> comparison table and runs.csv",
    "list": "what there is: methods, data sets, recipes, studies, networks",
}


def main(argv: Sequence[str] | None = None) -> None:
    """The console script.  Exit codes: 0 done, 1 failed, 2 wrong command line,
    130/143 stopped and resumable, 141 the reader of its output left (``| head``)."""
    try:
        code = run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # `| head` has seen enough; the interpreter's own flush at the end must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Dispatch; imports only what the word needs."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    word, rest = argv[0], argv[1:]
    if word == "--version":
        from ssl_bench import __version__

        print(__version__)
        return 0
    if word == "table":
        from ssl_bench import table

        return table.main(rest)
    if word == "study":
        from ssl_bench import study

        return study.main(rest)
    if word == "list":
        from ssl_bench import inventory

        return inventory.main(rest)
    if word in method_summaries():
        from ssl_bench import launch

        return launch.run_command(load_method(word), rest)
    from ssl_bench import flags

    print(f"ssl-bench: error: {flags.nearest(word, [*COMMANDS, *method_summaries()], 'command or method')}", file=sys.stderr)
    return 2


def _help() -> str:
    rows = [f"  {name:<14} {text}" for name, text in COMMANDS.items()]
    methods = [f"  {name:<14} {text}" for name, text in method_summaries().items()]
    return "\n".join(
        ["usage: ssl-bench COMMAND|METHOD [flags]     (COMMAND|METHOD --help lists the flags)", "", "commands:", *rows, "",
         "methods:", *methods, "", "examples:", "  ssl-bench study", "  ssl-bench fixmatch",
         "  ssl-bench fixmatch data/cifar100 -d CIFAR100 --num-samples-per-class 4 --seed 0",
         "  ssl-bench table fixmatch baseline      (the folders of --log; a study uses runs)"]
    )  # fmt: skip
