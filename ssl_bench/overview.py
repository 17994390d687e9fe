"""What a person sees of a study: how many runs are in which state, a list of them, and both live while they are trained."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

from ssl_bench import run_state
from ssl_bench.plan import Event, Run

POLL = 1.0  # seconds between looks into metrics.jsonl


def counts(runs: Sequence[Run]) -> str:
    """``24 runs: 3 done, 1 running, 0 failed, 2 incomplete, 18 not launched``."""
    found = Counter(run_state.state_name(run.folder) for run in runs)
    shown = [name for name in run_state.STATES if found[name] or name != run_state.QUEUED]
    return f"{len(runs)} runs: " + ", ".join(f"{found[name]} {name}" for name in shown)


def listing(runs: Sequence[Run]) -> str:
    """A line a run: its state, how far it is, its last accuracy, and why it failed or who trains it."""
    lines = []
    for run in runs:
        state = run_state.state(run.folder)
        steps = f"{run.steps if state.name == run_state.DONE else state.step:,}/{run.steps:,}"
        accuracy = "" if state.accuracy is None else f"{state.accuracy:.1f} %"
        lines.append(f"{state.name:<12}  {run.label:<48}  {steps:>17}  {accuracy:>7}  {state.message}".rstrip())
    return "\n".join(lines)


def outcome(event: Event) -> str:
    """One line about a run that has ended."""
    run, log = event.run, event.run.folder / "log.txt"
    state = run_state.state(run.folder)
    if event.code == run_state.ELSEWHERE:
        return f"{run.label}: trained elsewhere, by {state.message or 'another process'}"
    if event.code < 0 or event.code > 128:
        how = f"KILLED by signal {-event.code}" if event.code < 0 else "stopped"
        return f"{how}: {run.label}: the same command continues it (see {log})"
    if event.code:
        return f"FAILED {run.method}: {state.message} (see {log})"
    last = "done already" if state.accuracy is None else f"last_acc1 = {state.accuracy:.1f}"
    return f"{run.label}: {last}"


class Live:
    """The runs of one launch as they go on.  In a terminal a bar for all of them, weighted by their steps, and one a running run; elsewhere
    a line for each that ends."""

    def __init__(self, runs: Sequence[Run], terminal: bool) -> None:
        self.runs, self.ended, self.terminal = runs, 0, terminal
        self.begun, self.looked = time.perf_counter(), 0.0
        self.steps = {run.folder: _steps(run) for run in runs}
        self.at_begin = sum(self.steps.values())
        self.total = sum(run.steps for run in runs)
        self.running: dict[Run, tqdm | None] = {}
        form = "{desc} |{bar:20}| {percentage:3.0f}%{postfix}"
        self.whole = tqdm(
            total=self.total, initial=self.at_begin, desc=f"0/{len(runs)} runs", bar_format=form, dynamic_ncols=True,
            disable=not terminal, leave=False,
        )  # fmt: skip

    def show(self, event: Event | None) -> None:
        """Take in what became of a run; None: time has passed."""
        if event is None:
            if self.terminal and time.perf_counter() - self.looked > POLL:
                self._look()
        elif event.kind == "running":
            self.running.setdefault(event.run, self._bar(event.run) if self.terminal else None)
        elif event.kind == "ended":
            self._end(event)

    def _bar(self, run: Run) -> tqdm:
        taken = {abs(bar.pos) for bar in self.running.values() if bar is not None}
        place = next(i for i in range(1, len(taken) + 2) if i not in taken)
        form = "{desc} |{bar:20}| {n_fmt}/{total_fmt}{postfix}"
        return tqdm(total=run.steps, desc=f"  {run.label}", position=place, leave=False, dynamic_ncols=True, bar_format=form)

    def _end(self, event: Event) -> None:
        self.ended += 1
        seen = event.run in self.running
        bar = self.running.pop(event.run, None)
        if bar is not None:
            bar.close()
        if event.code == 0 and event.seconds:
            self.steps[event.run.folder] = event.run.steps
        else:  # failed, or not trained here: what was not done of it is no work that is left, and none that was done
            if seen:
                self.steps[event.run.folder] = _steps(event.run)
            self.total -= event.run.steps - self.steps[event.run.folder]
            self.whole.total = self.total
        self._look()
        left = self._left()
        line = f"[{self.ended}/{len(self.runs)}] {outcome(event)}  {event.seconds:.0f} s{f', about {left} left' if left else ''}"
        tqdm.write(line) if self.terminal else print(line, flush=True)

    def _look(self) -> None:
        self.looked = time.perf_counter()
        for run, bar in self.running.items():
            state = run_state.state(run.folder)
            self.steps[run.folder] = min(state.step, run.steps)
            if bar is not None:
                bar.n = self.steps[run.folder]
                bar.set_postfix_str("" if state.accuracy is None else f"{state.accuracy:.1f} %")
        self.whole.n = sum(self.steps.values())
        self.whole.set_description_str(f"{self.ended}/{len(self.runs)} runs", refresh=False)
        left = self._left()
        self.whole.set_postfix_str(f"{left} left" if left else "")

    def _left(self) -> str:
        """Time left if steps go on as fast as since the begin; "" before any was made."""
        now = sum(self.steps.values())
        if now <= self.at_begin or now >= self.total:
            return ""
        return f"{(time.perf_counter() - self.begun) / (now - self.at_begin) * (self.total - now) / 60:.1f} min"

    def close(self) -> None:
        for bar in (*self.running.values(), self.whole):
            if bar is not None:
                bar.close()


def live(runs: Sequence[Run]) -> Live:
    """`Live`, for whatever stderr is."""
    return Live(runs, sys.stderr.isatty())


def _steps(run: Run) -> int:
    return min(run_state.steps_done(run.folder), run.steps)
