"""What a person sees while a run trains: a live bar in a terminal, plain lines elsewhere, and what trackers get of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from tqdm import tqdm

from ssl_bench import distributed
from ssl_bench.trackers import Tracker, gone

MOST_ROWS = 100_000
"""Lines of training figures that --print-freq may ask of a run, about 25 MB; besides them each epoch has one, and one of its test."""


def print_interval(print_freq: int, total_steps: int) -> int:
    """Steps between lines: `print_freq`, or more where it would ask for more than `MOST_ROWS`; a line then says so.

    An epoch's end and its evaluation have their lines besides."""
    least = -(-total_steps // MOST_ROWS)
    if print_freq < least:
        print(f"note: {total_steps:,} steps: a line every {least} of them, not every {print_freq} (--print-freq), which may ask for {MOST_ROWS:,} at most")
    return max(print_freq, least)


class Progress:
    """One run's display.  Lines keep TLlib's shapes (``Epoch: [e][ i/500]``, ``* Acc@1``), which log parsers know."""

    def __init__(self, title: str, total_steps: int, start: int, trackers: Sequence[Tracker] = ()) -> None:
        self.bar = tqdm(
            total=total_steps, initial=start, desc=title, unit="step", dynamic_ncols=True, leave=False,
            disable=not sys.stderr.isatty() or distributed.rank() > 0,
        )  # fmt: skip
        self.said: set[str] = set()
        self.trackers = [*trackers]

    def advance(self) -> None:
        self.bar.update()

    def losses(self, epoch: int, i: int, iters: int, step: int, rate: float, eta: float, values: Mapping[str, float]) -> None:
        """Means since the last call; rate: labelled + unlabelled images a second; eta: seconds of training left."""
        texts = [f"{name} {value:.4g}" for name, value in values.items()]
        if self.bar.disable:
            place = f"Epoch: [{epoch}][{i:>{len(str(iters))}}/{iters}]"
            print("\t".join([place, f"{rate:.0f} images/s", f"{tqdm.format_interval(eta)} left", *texts]), flush=True)
        else:
            self.bar.set_postfix_str(", ".join([f"{rate:.0f} im/s", *texts]))
        self._event(values, step)

    def evaluation(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        line = f"Epoch: [{epoch}] * Acc@1 {values['top1']:.3f} Acc@5 {values['top5']:.3f} * Mean Cls {values['mean_class']:.3f}"
        line += "".join(f" * {name} {value:.3f}" for name, value in values.items() if name.endswith("_top1"))
        tqdm.write(line) if not self.bar.disable else print(line, flush=True)
        self._event({f"test/{name}": value for name, value in values.items()}, step)

    def warning(self, text: str, once: str) -> None:
        """One line on stderr; of several about the same thing, `once`, only the first."""
        if once in self.said:
            return
        self.said.add(once)
        tqdm.write(text, file=sys.stderr) if not self.bar.disable else print(text, file=sys.stderr, flush=True)

    def _event(self, values: Mapping[str, float], step: int) -> None:
        self._tell(lambda tracker: tracker.log(values, step))

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        """A tracker that fails costs a line, and is asked no more: the training goes on."""
        for tracker in [*self.trackers]:
            try:
                call(tracker)
            except Exception as error:  # noqa: BLE001 - whatever a foreign library raises
                self.trackers.remove(tracker)
                self.warning(f"warning: {gone(tracker, error)}", once=tracker.name)

    def close(self, summary: Mapping[str, float] | None = None) -> None:
        """summary: of a run that came to its end."""
        self.bar.close()
        self._tell(lambda tracker: tracker.close(summary or {}))
