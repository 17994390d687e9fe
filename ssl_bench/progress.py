"""What a person sees while a run trains: a live bar in a terminal, plain lines elsewhere; TensorBoard if asked for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ssl_bench import distributed


class Progress:
    """One run's display.  Lines keep TLlib's shapes (``Epoch: [e][ i/500]``, ``* Acc@1``), which log parsers know."""

    def __init__(self, title: str, total_steps: int, start: int, events: Path | None) -> None:
        self.bar = tqdm(
            total=total_steps, initial=start, desc=title, unit="step", dynamic_ncols=True, leave=False,
            disable=not sys.stderr.isatty() or distributed.rank() > 0,
        )  # fmt: skip
        self.said: set[str] = set()
        self.writer = _event_writer(events, start) if events else None

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
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.bar.close()
        if self.writer is not None:
            self.writer.close()


def _event_writer(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError('--tensorboard needs TensorBoard: pip install "ssl-bench[tensorboard]"') from None
    return SummaryWriter(str(folder), purge_step=start + 1)
