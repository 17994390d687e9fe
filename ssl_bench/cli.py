"""``ssl-bench``: one word picks a method, a study or a table.  Help needs no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ssl_bench.catalog import load_method, method_summaries
from ssl_bench.messages import lenient_output, refuse

COMMANDS = {
    "study": "train methods x settings x seeds and make the table [default: scikit-learn's digits]",
    "table": "run folders -> comparison table, statistics and runs.csv",
    "report": "run folders -> one HTML page: table, figures, a page a run, two runs compared",
    "watch": "the report on this machine's own address, made anew while runs go on",
    "plot": "run folders -> figures for a paper: curves, labels, ranks, cost, calibration",
    "show": "a sheet of the views of a data set's images, as a network is fed them",
    "predict": "a trained network names the classes of your images",
    "evaluate": "a trained network's figures on a test set, by class and by confidence",
    "export": "a trained network for elsewhere: safetensors, onnx, torchscript, timm",
    "list": "what there is: methods, data sets, recipes, studies, networks",
}


def main(argv: Sequence[str] | None = None) -> None:
    """The console script.  Exit codes: 0 done, 1 failed, 2 wrong command line,
    130/143 stopped and resumable, 141 the reader of its output left (``| head``)."""
    lenient_output()
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
    if word in COMMANDS:
        return _command(word, rest)
    if word in method_summaries():
        from ssl_bench import launch

        return launch.run_command(load_method(word), rest)
    from ssl_bench.flags import nearest

    return refuse("ssl-bench", nearest(word, [*COMMANDS, *method_summaries()], "command or method"), 2)


def _command(word: str, argv: list[str]) -> int:
    match word:
        case "study":
            from ssl_bench.study import main as command
        case "table":
            from ssl_bench.tables import main as command
        case "report":
            from ssl_bench.report import main as command
        case "watch":
            from ssl_bench.watch import main as command
        case "plot":
            from ssl_bench.plot import main as command
        case "show":
            from ssl_bench.show import main as command
        case "predict":
            from ssl_bench.predict import main as command
        case "evaluate":
            from ssl_bench.evaluate_run import main as command
        case "export":
            from ssl_bench.export import main as command
        case "list":
            from ssl_bench.inventory import main as command
    return command(argv)


def _help() -> str:
    rows = [f"  {name:<14} {text}" for name, text in COMMANDS.items()]
    methods = [f"  {name:<14} {text}" for name, text in method_summaries().items()]
    return "\n".join(
        ["usage: ssl-bench COMMAND|METHOD [flags]     (COMMAND|METHOD --help lists the flags)", "", "commands:", *rows, "",
         "methods:", *methods, "", "examples:", "  ssl-bench study", "  ssl-bench fixmatch",
         "  ssl-bench fixmatch data/cifar100 -d CIFAR100 --num-samples-per-class 4 --seed 0",
         "  ssl-bench table fixmatch baseline      (the folders of --log; a study uses runs)"]
    )  # fmt: skip
