"""A loss term or a weight that became nan or infinite ends the run, and is named with its step."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_bench import distributed, parallel
from ssl_bench.args import Args
from ssl_bench.method import Method


class NonFiniteLoss(ArithmeticError):
    """A loss term became nan or infinite; the message names term, step and what was kept."""


class FiniteCheck:
    """Notes on the device, at each step, which terms were not finite; the device is asked between steps only."""

    def __init__(self, method: Method, args: Args) -> None:
        self.method, self.args = method, args
        self.never = args.epochs * args.iters_per_epoch
        self.first_bad: dict[str, Tensor] = {}

    def note(self, loss: Tensor, term: str, step: int) -> None:
        """A term's value in a step."""
        bad = torch.where(loss.detach().isfinite(), self.never, step)
        self.first_bad[term] = bad if term not in self.first_bad else torch.minimum(self.first_bad[term], bad)

    def check(self, step: int) -> None:
        """NonFiniteLoss if a term or, before `step`, a weight became nan or infinite.  Waits for the device.  Collective."""
        name, precision = self.method.name, "" if self.args.precision == "fp32" else " or use --precision fp32"
        kept = f"lower --lr{precision}; checkpoints from before it are kept"
        first: dict[str, float] = {}
        if self.first_bad:  # the same on every process, so that all stop for the same reason
            first = dict(zip(self.first_bad, distributed.minimum_(torch.stack([*self.first_bad.values()])).tolist(), strict=True))
        term = min(first, key=lambda name: first[name], default=None)
        if term is not None and first[term] < self.never:
            epoch = first[term] // self.args.iters_per_epoch
            raise NonFiniteLoss(f"loss term {term!r} of {name} became nan or infinite at step {first[term]} (epoch {epoch}); {kept}")
        weights = dict(self.method.named_parameters())
        finite = [parallel.local(value).isfinite().all() for value in weights.values()]
        everywhere = distributed.minimum_(torch.stack(finite).to(torch.int32)).tolist()
        if not all(everywhere):
            weight = list(weights)[everywhere.index(0)]
            raise NonFiniteLoss(f"{weight} of {name} became nan or infinite before step {step}; {kept}")
