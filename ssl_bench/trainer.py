"""fit(): THE loop.  Zero the gradients, let the method make its step, clip, step, evaluate, record, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from ssl_bench import distributed, parallel, schedules
from ssl_bench.args import Args
from ssl_bench.assessment import evaluate_method, held_out_figures
from ssl_bench.energy import EnergyMeter
from ssl_bench.evaluate import Answers
from ssl_bench.feed import test_stream, training_batches
from ssl_bench.finite import FiniteCheck, NonFiniteLoss
from ssl_bench.interrupt import Interrupted, interruptions
from ssl_bench.messages import reason_of
from ssl_bench.method import Batch, Method
from ssl_bench.metrics import RunningMeans
from ssl_bench.placement import autocast, compile_networks, forget_peak_memory, peak_memory, place
from ssl_bench.pools import Pools
from ssl_bench.progress import Progress, print_interval
from ssl_bench.record import RunFolder, args_hash
from ssl_bench.streams import STEP, Stream, seed_of
from ssl_bench.trackers import chosen


class Trainer:
    """The running state of one fit, and the Loop it lends to the method: ``backward``, ``step``, ``epoch``."""

    def __init__(self, method: Method, args: Args, device: torch.device) -> None:
        self.method, self.args, self.device = method, args, device
        self.args_hash = args_hash(method.name, args)  # once: it reads the files of --labeled-list, which may go while this trains
        self.step = 0
        self.optimizers = method.optimizers()
        self.gradient_mean = parallel.GradientMean(self.optimizers)
        self.deferred: list[Tensor] = []
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")
        self.means = RunningMeans()
        self.finite = FiniteCheck(method, args)
        self.evaluations: list[dict[str, Any]] = []
        self.train_seconds = 0.0
        self.joules: float | None = 0.0  # None: not all of the training was measured
        self.images_seen = 0
        self.test_stream: Stream | None = None
        self.val_stream: Stream | None = None

    def close(self) -> None:
        """End the processes that read images for evaluations."""
        for stream in (self.test_stream, self.val_stream):
            if stream is not None:
                stream.close()

    @property
    def epoch(self) -> int:
        return self.step // self.args.iters_per_epoch

    @property
    def total_steps(self) -> int:
        return self.args.epochs * self.args.iters_per_epoch

    def backward(self, loss: Tensor, term: str) -> None:
        self.finite.note(loss, term, self.step)
        if self.args.concat or self.method.positional is not None:
            self.deferred.append(loss)  # terms share forwards, and so one backward
        else:
            self._backward(loss)

    def _backward(self, loss: Tensor) -> None:
        self.gradient_mean.before_backward()
        self.scaler.scale(loss / self.args.accumulate).backward()

    def update(self, batch: Batch) -> None:
        """One optimiser step on this process's part of one batch."""
        self._set_learning_rate()
        # Dropout is a function of the step and the process: resume is exact, and no two processes drop the same.
        rank = distributed.rank()
        _seed(seed_of(self.args.seed, STEP, self.step, *([rank] if rank else [])), self.device)
        if self.args.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # from here on, what the graphs returned before may be overwritten
        with autocast(self.args, self.device):
            batch, logged = self.method.before_step(batch, self)
        self.means.add(logged)
        for micro in batch.chunks(self.args.accumulate):
            with autocast(self.args, self.device):
                logged = self.method.train_step(micro, self) | self.method.position_step(self)
            if self.deferred:
                self._backward(torch.stack(self.deferred).sum())
                self.deferred.clear()
            self.means.add(logged)
        self.gradient_mean.finish()
        for optimizer in self.optimizers:
            if self.args.clip_grad:
                self.scaler.unscale_(optimizer)
                weights = [weight for group in optimizer.param_groups for weight in group["params"]]
                torch.nn.utils.clip_grad_norm_(weights, self.args.clip_grad)
            self.scaler.step(optimizer)
        for optimizer in self.optimizers:  # after all have stepped: two may share a weight
            optimizer.zero_grad(set_to_none=True)  # here, not before the next step: no evaluation or checkpoint then holds gradients
        self.scaler.update()
        self.method.after_step(self)
        self.step += 1

    def _set_learning_rate(self) -> None:
        args = self.args
        before, after = (epochs * args.iters_per_epoch for epochs in (args.epochs_before, args.epochs_after))
        factor = args.lr * schedules.learning_rate(
            before + self.step, scheduler=args.lr_scheduler, total_steps=before + self.total_steps + after, gamma=args.lr_gamma, decay=args.lr_decay,
            warmup_steps=args.lr_warmup_epochs * args.iters_per_epoch,
            milestones=[epoch * args.iters_per_epoch for epoch in args.milestones], floor=args.min_lr / args.lr,
        )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * group.get("lr_scale", 1.0)

    def state_dict(self, split_hash: dict[str, str]) -> dict[str, Any]:
        """Everything that resumes the run, whole on every process.  Collective: it also evens out what differs between them."""
        parallel.average_batch_norm(self.method)
        self.means.average()
        return dict(
            args_hash=self.args_hash, split_hash=split_hash, step=self.step,
            method=parallel.gathered(self.method.state_dict()), scaler=self.scaler.state_dict(),
            optimizers=[parallel.gathered(optimizer.state_dict()) for optimizer in self.optimizers],
            means=self.means.state_dict(), evaluations=self.evaluations, train_seconds=self.train_seconds, images_seen=self.images_seen,
            joules=self.joules,
        )

    def go_on_from(self, before: RunFolder) -> None:
        """Take over all that the stage before had at its end: weights, buffers, the optimisers' memory.  ValueError: it has no state."""
        state = before.load_state()
        if state is None:
            raise ValueError(f"{before.path} has no state to go on from: remove its result.json, and it is trained again")
        self._load(state)

    def _load(self, state: dict[str, Any]) -> None:
        parallel.load_weights(self.method, state["method"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            parallel.load_optimizer(optimizer, saved)
        self.scaler.load_state_dict(state["scaler"])

    def load_state_dict(self, state: dict[str, Any], split_hash: dict[str, str]) -> None:
        """ValueError when the state is another run's, or none."""
        if not isinstance(state, dict):
            raise ValueError(f"the checkpoint is no state of a run but a {type(state).__name__}; remove it or use another --log")
        for what, theirs, ours in (
            ("other arguments", state.get("args_hash"), self.args_hash),
            ("another split", state.get("split_hash"), split_hash),
        ):
            if theirs != ours:
                raise ValueError(f"the checkpoint was made with {what} ({theirs}, here {ours}); remove it or use another --log")
        try:
            self._load(state)
            self.means.load_state_dict(state["means"])
            for name in ("step", "evaluations", "train_seconds", "images_seen"):
                setattr(self, name, state[name])
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:  # as torch says that something is missing or has another shape
            reason = f"no {error}" if isinstance(error, KeyError) else reason_of(error, 200)
            raise ValueError(f"the checkpoint does not fit this run ({reason}); remove it or use another --log") from error
        self.joules = state.get("joules")


def _seed(seed: int, device: torch.device) -> None:
    """torch.manual_seed for the generators that a step on `device` draws from; that one asks every kind of device, for 0.3 ms."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def fit(
    method: Method, pools: Pools, args: Args, run: RunFolder, device: torch.device, before: RunFolder | None = None, last: bool = True
) -> dict[str, Any]:
    """Train `method` to the end (from the run's newest checkpoint if there is one) and return what result.json records of it.

    before: the stage whose optimisers' memory a new run goes on with; None: it begins with none.  last: no other stage follows.

    Raises NonFiniteLoss, Interrupted (SIGTERM, Ctrl-C; after saving), OSError (a checkpoint could not be written).
    """
    forget_peak_memory(device)
    place(method, args, device).train()
    trainer = Trainer(method, args, device)
    state = run.load_state()
    if state is not None:
        trainer.load_state_dict(state, pools.split_hash)
        print(f"continuing {run.path} after step {trainer.step} of {trainer.total_steps}")
    elif before is not None:
        trainer.go_on_from(before)
    run.truncate_metrics(trainer.step)
    method.prepare(pools)
    compile_networks(method, args)
    followers = chosen(args, run.path, trainer.step, method.name, trainer.args_hash) if run.writes else []
    progress = Progress(f"{method.name} {args.data} seed {args.seed}", trainer.total_steps, trainer.step, followers)
    summary = None
    try:
        with interruptions() as arrived, closing(training_batches(method, pools, args, device, trainer.step)) as stream:
            _steps(trainer, stream, pools, run, progress, arrived)
            stop = -int(distributed.minimum_(torch.tensor(-max(arrived, default=0))))
            if stop and not last:  # it came in the last step; a whole stage would follow
                raise Interrupted(stop)
        tops = [row["top1"] for row in trainer.evaluations]
        summary = {"last_top1": tops[-1], "best_top1": max(tops)}
    finally:
        progress.close(summary)
        trainer.close()
    return dict(
        evaluations=trainer.evaluations,
        joules=_of_all_processes(trainer.joules, device),
        images_per_second=round(trainer.images_seen / max(trainer.train_seconds, 1e-9), 1),
        minutes=round(trainer.train_seconds / 60, 3),
        peak_memory_mib=round(peak_memory(device) / 2**20, 1),
    )


def _of_all_processes(joules: float | None, device: torch.device) -> float | None:
    total = distributed.sum_(torch.tensor([math.nan if joules is None else joules], device=device)).item()
    return None if math.isnan(total) else round(total, 1)


def _steps(trainer: Trainer, stream: Iterator[Batch], pools: Pools, run: RunFolder, progress: Progress, arrived: list[int]) -> None:
    args, iters = trainer.args, trainer.args.iters_per_epoch
    save_every, print_every = args.checkpoint_freq or iters, print_interval(args.print_freq, trainer.total_steps)
    clock, printed_step, since_print = time.perf_counter(), trainer.step, 0.0
    energy = EnergyMeter(trainer.device)
    vote = distributed.Vote()
    while trainer.step < trainer.total_steps:
        epoch = trainer.epoch
        batch = next(stream)
        trainer.update(batch)
        images = (len(batch.y_l) + len(batch.idx_u)) * distributed.world_size()
        trainer.images_seen += images
        progress.advance()
        edge = trainer.step % iters == 0
        stop = vote.cast(max(arrived, default=0))  # once a step: what arrives later is seen after the next, and saved then
        due = edge or trainer.step % save_every == 0 or stop
        if due or trainer.step % print_every == 0:
            trainer.finite.check(trainer.step)
            seconds = time.perf_counter() - clock
            trainer.train_seconds += seconds
            joules = energy.joules()
            trainer.joules = None if joules is None or trainer.joules is None else trainer.joules + joules
            since_print += seconds
            if edge or trainer.step % print_every == 0:
                means = trainer.means.pop()
                steps = trainer.step - printed_step
                rate = images * steps / since_print
                eta = (trainer.total_steps - trainer.step) * since_print / steps
                progress.losses(epoch, (trainer.step - 1) % iters + 1, iters, trainer.step, rate, eta, means)
                run.append_metrics({"step": trainer.step, "epoch": epoch, "kind": "train", **means})
                printed_step, since_print = trainer.step, 0.0
            if edge:
                _evaluate_and_record(trainer, pools, run, progress, epoch, means)
            if due:
                run.save_state(trainer.state_dict(pools.split_hash), trainer.step)
            clock = time.perf_counter()
            energy.restart()
        if stop and trainer.step < trainer.total_steps:
            raise Interrupted(stop)
    vote.close()


def _evaluate_and_record(
    trainer: Trainer, pools: Pools, run: RunFolder, progress: Progress, epoch: int, means: dict[str, float]
) -> None:
    if trainer.test_stream is None:
        trainer.test_stream = test_stream(pools.test, trainer.args, trainer.device)
    answers = Answers(len(pools.test), trainer.device) if trainer.step == trainer.total_steps else None
    row = evaluate_method(trainer.method, pools, trainer.args, trainer.device, trainer.test_stream, answers=answers)
    if pools.val is not None:
        if trainer.val_stream is None:
            trainer.val_stream = test_stream(pools.val, trainer.args, trainer.device)
        row |= held_out_figures(trainer.method, pools, trainer.args, trainer.device, trainer.val_stream)
    if row["loss"] - row["loss"] != 0:
        when = f"after step {trainer.step} (epoch {epoch})"
        raise NonFiniteLoss(f"{trainer.method.name} predicts nan or infinity {when}; lower --lr; the checkpoints from before it are kept")
    progress.evaluation(epoch, trainer.step, row)
    best = max((past["top1"] for past in trainer.evaluations), default=-1.0)
    trainer.evaluations.append({"epoch": epoch, "step": trainer.step, **row})
    run.append_metrics({"step": trainer.step, "epoch": epoch, "kind": "test", **row})
    for text in trainer.method.warnings(means, trainer.evaluations):
        progress.warning(f"{trainer.method.name}: warning: epoch {epoch}: {text}", once=" ".join(text.split()[:4]))
        run.append_metrics({"step": trainer.step, "epoch": epoch, "kind": "warning", "text": text})
    if answers is not None:
        run.save_predictions(answers.arrays())
    weights = parallel.gathered(trainer.method.evaluated().state_dict())
    run.save_weights("latest", weights)
    for name, network in trainer.method.also_evaluated().items():
        run.save_weights(f"latest_{name}", parallel.gathered(network.state_dict()))
    if row["top1"] > best:
        run.save_weights("best", weights)
