"""A against B, in turn, in one run on the same work: how every benchmark here measures, records and prints.

A row compares two callables (`compare`), or states figures that have no counterpart (`figure`), or says why there is none
(`skipped`).  Speeds are ratios of interleaved rounds, never bare times: a machine that slows down slows both sides.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

PACKAGES = ("torch", "torchvision", "timm", "pillow", "numpy", "ssl-bench")
CPU_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_tile", "asimd", "bf16", "sve")
UNITS = {"s": (1.0, "s"), "ms": (1e3, "ms"), "MiB": (1.0, "MiB")}

Measure = Callable[[], float]
Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What the command line says.  rounds, threads: None leaves the benchmark's own choice.

    tiny: the least work that still runs every line, for tests; its figures mean nothing and are not written by default.
    only: rows whose case contains this text; a benchmark asks `wants` before it does the work.
    """

    rounds: int | None = None
    threads: int | None = None
    device: str = "auto"
    tiny: bool = False
    only: str = ""
    command: str = ""

    def wants(self, case: str) -> bool:
        return self.only in case

    def rounds_or(self, default: int) -> int:
        """Timed rounds: as asked, 1 in a tiny run, else `default`."""
        return self.rounds or (1 if self.tiny else default)


# Measuring


def seconds(function: Callable[[], Any], calls: int = 1, device: torch.device | None = None) -> Measure:
    """A measure: seconds of one call of `function`, as the mean of `calls` in a row; waits for a CUDA device at both ends."""

    def measure() -> float:
        _wait(device)
        begun = time.perf_counter()
        for _ in range(calls):
            function()
        _wait(device)
        return (time.perf_counter() - begun) / calls

    return measure


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(measures: Sequence[Measure], rounds: int, warm_up: int = 1) -> list[tuple[float, ...]]:
    """`rounds` rounds of one value a measure, after `warm_up` discarded ones; every second round runs in reverse order, so
    that neither side always comes first."""
    kept = []
    for round_ in range(-warm_up, rounds):
        turn = range(len(measures)) if round_ % 2 == 0 else range(len(measures) - 1, -1, -1)
        values = {k: measures[k]() for k in turn}
        if round_ >= 0:
            kept.append(tuple(values[k] for k in range(len(measures))))
    return kept


def compare(
    case: str, a: tuple[str, Measure], b: tuple[str, Measure], *, rounds: int, ratio: Literal["a/b", "b/a"], warm_up: int = 1,
    unit: Literal["s", "ms", "MiB"] = "ms", goal: str = "", work: tuple[float, str] | None = None, **notes: Any,
) -> Row:  # fmt: skip
    """One row: A and B measured in turn.

    a, b: name and measure (seconds, or MiB); ratio: "a/b" is what A costs of B, "b/a" how many times faster A is - the
    median and quartiles of the *per-round* ratios.  goal: such as "<= 1.05"; work: amount and unit that one call does, such
    as (448, "pairs"), for a rate; notes: whatever else the record should hold.
    """
    pairs = interleaved((a[1], b[1]), rounds, warm_up)
    ratios = [x / y if ratio == "a/b" else y / x for x, y in pairs]
    row = dict(
        case=case, a=a[0], b=b[0], unit=unit, threads=torch.get_num_threads(), ratio_is=ratio, ratio=summary(ratios),
        a_values=summary([scaled(x, unit) for x, _ in pairs]), b_values=summary([scaled(y, unit) for _, y in pairs]),
        rounds=[[scaled(x, unit), scaled(y, unit)] for x, y in pairs], goal=goal, **notes,
    )  # fmt: skip
    if work is not None:
        row |= {"work": list(work), "rate": work[0] * UNITS[unit][0] / row["a_values"]["median"]}
    return _judged(row, row["ratio"]["median"])


def figure(case: str, values: Sequence[float], *, unit: str, goal: str = "", **notes: Any) -> Row:
    """One row without a counterpart: a share of a step, a physical floor, seconds to start; values: one a round."""
    row = dict(case=case, unit=unit, threads=torch.get_num_threads(), values=summary(values), goal=goal, **notes)
    return _judged(row, row["values"]["median"])


def skipped(case: str, reason: str) -> Row:
    """One row that was not measured."""
    return dict(case=case, skipped=reason)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, least and number; rounded to 5 digits."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values) * 3
    figures = {"median": middle, "q1": low, "q3": high, "min": min(values)}
    return {name: float(f"{value:.5g}") for name, value in figures.items()} | {"n": len(values)}


def scaled(value: float, unit: str) -> float:
    return float(f"{value * UNITS[unit][0]:.6g}")


def _judged(row: Row, value: float) -> Row:
    if row["goal"]:
        sense, bound = row["goal"].split()
        row["met"] = value <= float(bound) if sense == "<=" else value >= float(bound)
    return row


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """torch on n threads inside, as before outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Recording


def report(what: str, rows: Sequence[Row], options: Options, device: torch.device | None = None) -> dict[str, Any]:
    """The record of one benchmark: where, with what, how, and its rows."""
    device = device or torch.device("cpu")
    return dict(
        what=what, device=device_name(device), machine=machine(), versions=versions(), command=options.command,
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), tiny=options.tiny, rows=list(rows),
    )  # fmt: skip


def device_name(device: torch.device) -> str:
    """The name of the GPU, or the CPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Cores this process may use, and the instruction sets that decide bf16 and integer speed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words: set[str] = set()
    with contextlib.suppress(OSError):
        found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        words = set(found[1].split()) if found else words
    return dict(
        cores=cores, architecture=platform.machine(), torch_uses=torch.backends.cpu.get_cpu_capability(),
        flags=[flag for flag in CPU_FLAGS if flag in words],
    )  # fmt: skip


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def path_of(record: dict[str, Any], folder: Path) -> Path:
    """<folder>/<what>-<device>.json"""
    slug = re.sub(r"[^a-z0-9]+", "-", record["device"].lower()).strip("-")
    return folder / f"{record['what']}-{slug}.json"


def write(record: dict[str, Any], folder: Path) -> Path:
    """Write the record; returns the file."""
    path = path_of(record, folder)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def updated(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The record in `folder` with the rows of `record` in place of those of the same case (new cases come last), each with the
    command and the date of its own.  ValueError: it is of another machine or of other versions."""
    path = path_of(record, folder)
    old = json.loads(path.read_text(encoding="utf-8"))
    if (old["machine"], old["versions"]) != (record["machine"], record["versions"]):
        raise ValueError(f"{path} was measured on another machine or with other versions: measure all rows")
    rows = {(row["case"], row.get("of")): {**row, "measured": f"{record['date']}, {record['command']}"} for row in record["rows"]}
    kept = [rows.pop((row["case"], row.get("of")), row) for row in old["rows"]]
    return {**old, "rows": kept + list(rows.values())}


# Printing


def heading(record: dict[str, Any]) -> str:
    """One line: device, instruction sets, versions, date."""
    body = record["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in record["versions"].items() if name != "ssl-bench")
    flags = " ".join(body["flags"])
    return f"{record['device']}, {body['cores']} cores ({flags}); {packages}; {record['date'][:10]}"


def table(record: dict[str, Any]) -> str:
    """The rows as markdown, for terminal and page alike: median [quartiles] of A and B, rate, ratio, goal."""
    from tabulate import tabulate

    head = ["case", "threads", "A", "B", "A takes", "B takes", "rate of A", "ratio", "goal"]
    lines = []
    for row in record["rows"]:
        if "skipped" in row:
            lines.append([row["case"], "", "not measured: " + row["skipped"], *[""] * 6])
            continue
        goal = f"{row['goal']} {'met' if row['met'] else '**missed**'}" if row["goal"] else ""
        if "ratio" not in row:
            value = f"{spread(row['values'])} {row['unit']}"
            lines.append([row["case"], row["threads"], row.get("of", ""), "", value, "", "", "", goal])
            continue
        rate = f"{row['rate']:,.0f} {row['work'][1]}/s" if "rate" in row else ""
        ratio = f"{row['ratio_is'].upper().replace('/', ' / ')} = {spread(row['ratio'])}"
        ratio += f" ({row['note']})" if "note" in row else ""
        sides = [f"{spread(row[side])} {row['unit']}" for side in ("a_values", "b_values")]
        lines.append([row["case"], row["threads"], row["a"], row["b"], *sides, rate, ratio, goal])
    return tabulate(lines, head, tablefmt="pipe", disable_numparse=True)


def spread(values: dict[str, float]) -> str:
    """``1.52 [1.50, 1.55]``; a single value stands alone."""
    middle = _short(values["median"])
    return middle if values["n"] == 1 else f"{middle} [{_short(values['q1'])}, {_short(values['q3'])}]"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
