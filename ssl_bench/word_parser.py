"""The command line of a word of ``ssl-bench``: argparse, whose errors are one line and know the nearest flag."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from ssl_bench.flags import nearest
from ssl_bench.messages import refuse

HELP = "(--help lists the flags)"


class WordParser(argparse.ArgumentParser):
    """Leaves with code 2 after one line on stderr."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]  # it has overloads
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = next((word for word in unknown if word.startswith("-")), None)
            if flag is None:
                self.error(f"one word too many: {unknown[0]!r}")
            known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
            self.error(nearest(flag.partition("=")[0], known, "flag"))
        return found

    def error(self, message: str) -> NoReturn:
        raise SystemExit(refuse(self.prog, f"{message} {HELP}", 2))
