"""fit(): THE loop.  Zero the gradients, let the method make its step, clip, step, evaluate, record, resume."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_bench import schedules
from ssl_bench.args import Args
from ssl_bench.augment.views import View, build_view
from ssl_bench.evaluate import evaluate, evaluation_stream
from ssl_bench.interrupt import Interrupted, interruptions
from ssl_bench.method import Batch, Method
from ssl_bench.metrics import RunningMeans
from ssl_bench.pools import Pools
from ssl_bench.prefetch import ahead
from ssl_bench.progress import Progress
from ssl_bench.record import RunFolder, args_hash
from ssl_bench.streams import LABELED, STEP, UNLABELED, EndlessOrder, Stream, batches, endless_plans, seed_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteLoss(ArithmeticError):
    """A loss term became nan or infinite; the message names term, step and what was kept."""


class Trainer:
    """The running state of one fit, and the Loop it lends to the method: ``backward``, ``step``, ``epoch``."""

    def __init__(self, method: Method, args: Args, device: torch.device) -> None:
        self.method, self.args, self.device = method, args, device
        self.step = 0
        self.optimizers = method.optimizers()
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")
        self.means = RunningMeans()
        self.first_bad: dict[str, Tensor] = {}
        self.evaluations: list[dict[str, Any]] = []
        self.train_seconds = 0.0
        self.images_seen = 0
        self.test_stream: Stream | None = None

    @property
    def epoch(self) -> int:
        return self.step // self.args.iters_per_epoch

    @property
    def total_steps(self) -> int:
        return self.args.epochs * self.args.iters_per_epoch

    def backward(self, loss: Tensor, term: str) -> None:
        bad = torch.where(loss.detach().isfinite(), self.total_steps, self.step)
        self.first_bad[term] = bad if term not in self.first_bad else torch.minimum(self.first_bad[term], bad)
        self.scaler.scale(loss / self.args.accumulate).backward()

    def update(self, batch: Batch) -> None:
        """One optimiser step on one batch."""
        self._set_learning_rate()
        torch.manual_seed(seed_of(self.args.seed, STEP, self.step))  # dropout is a function of the step: resume is exact
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        for micro in batch.chunks(self.args.accumulate):
            with autocast(self.args, self.device):
                logged = self.method.train_step(micro, self)
            self.means.add(logged)
        for optimizer in self.optimizers:
            if self.args.clip_grad:
                self.scaler.unscale_(optimizer)
                weights = [weight for group in optimizer.param_groups for weight in group["params"]]
                torch.nn.utils.clip_grad_norm_(weights, self.args.clip_grad)
            self.scaler.step(optimizer)
        self.scaler.update()
        self.method.after_step(self)
        self.step += 1

    def _set_learning_rate(self) -> None:
        args = self.args
        factor = args.lr * schedules.learning_rate(
            self.step, scheduler=args.lr_scheduler, total_steps=self.total_steps, gamma=args.lr_gamma, decay=args.lr_decay,
            warmup_steps=args.lr_warmup_epochs * args.iters_per_epoch,
        )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * group.get("lr_scale", 1.0)

    def check_finite(self) -> None:
        """NonFiniteLoss if a term or a weight became nan or infinite.  Waits for the device: between steps only."""
        kept = "lower --lr or use --precision fp32; the checkpoints from before it are kept"
        first = {term: int(step) for term, step in self.first_bad.items()}
        term = min(first, key=first.get, default=None)
        if term is not None and first[term] < self.total_steps:
            epoch = first[term] // self.args.iters_per_epoch
            where = f"loss term {term!r} of {self.method.name} became nan or infinite at step {first[term]} (epoch {epoch})"
            raise NonFiniteLoss(f"{where}; {kept}")
        weights = dict(self.method.named_parameters())
        finite = torch.stack([value.isfinite().all() for value in weights.values()]).tolist()
        if not all(finite):
            name = list(weights)[finite.index(False)]
            raise NonFiniteLoss(f"{name} of {self.method.name} became nan or infinite before step {self.step}; {kept}")

    def state_dict(self, split_hash: dict[str, str]) -> dict[str, Any]:
        return dict(
            args_hash=args_hash(self.method.name, self.args), split_hash=split_hash, step=self.step, method=self.method.state_dict(),
            optimizers=[optimizer.state_dict() for optimizer in self.optimizers], scaler=self.scaler.state_dict(),
            means=self.means.state_dict(), evaluations=self.evaluations, train_seconds=self.train_seconds, images_seen=self.images_seen,
        )

    def load_state_dict(self, state: dict[str, Any], split_hash: dict[str, str]) -> None:
        """ValueError when the state is another run's."""
        for what, theirs, ours in (
            ("other arguments", state.get("args_hash"), args_hash(self.method.name, self.args)),
            ("another split", state.get("split_hash"), split_hash),
        ):
            if theirs != ours:
                raise ValueError(f"the checkpoint was made with {what} ({theirs}, here {ours}); remove it or use another --log")
        self.method.load_state_dict(state["method"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])
        self.means.load_state_dict(state["means"])
        for name in ("step", "evaluations", "train_seconds", "images_seen"):
            setattr(self, name, state[name])


def autocast(args: Args, device: torch.device) -> torch.autocast:
    """The precision of every forward, in training and in evaluation."""
    # No cache: a no-grad teacher pass would cache gradient-free casts of weights that a later pass must train.
    dtype = DTYPES[args.precision]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False)


def training_views(names: tuple[str, ...], args: Args) -> tuple[View, ...]:
    """The views a method declared, built from the flags."""
    return tuple(
        build_view(
            name, image_size=args.image_size, resizing=args.train_resizing, mean=args.norm_mean, std=args.norm_std,
            policy=args.auto_augment, hflip=args.hflip, color_jitter=args.color_jitter, erasing=args.erasing, cutout=args.cutout,
        )
        for name in names
    )


def test_view(args: Args) -> View:
    """The view of evaluation."""
    return build_view("test", image_size=args.image_size, resizing=args.val_resizing, mean=args.norm_mean, std=args.norm_std)


def place(method: Method, device: torch.device) -> Method:
    """Onto the device, channels last on CUDA: the same for training and for the test phase, so that numbers agree exactly."""
    method.to(device)
    return method.to(memory_format=torch.channels_last) if device.type == "cuda" else method


def compile_networks(method: Method, args: Args) -> None:
    """In place, so that state-dict names stay."""
    if args.compile:
        for network in method.children():
            network.compile()


def test_stream(pools: Pools, args: Args, device: torch.device) -> Stream:
    """The test set, for any number of evaluations."""
    limit = args.device_data_limit * 2**30
    return evaluation_stream(pools.test, test_view(args), device, workers=args.workers, device_limit=limit)


def evaluate_method(
    method: Method, pools: Pools, args: Args, device: torch.device, stream: Stream | None = None
) -> dict[str, float]:
    """The test set's figures in the precision of training; the method is left in training mode.

    stream: a `test_stream` to use again; None: one made for this evaluation.
    """

    def predict(x: Tensor) -> Tensor:
        with autocast(args, device):  # around the network only: the view's arithmetic on pixels is exact
            return method.predict(x)

    method.eval()
    row = evaluate(predict, stream or test_stream(pools, args, device), len(pools.classes))
    method.train()
    return row


def training_batches(method: Method, pools: Pools, args: Args, device: torch.device, start: int) -> Iterator[Batch]:
    """Batch `start`, `start` + 1, ...: the same ones whoever asks."""
    wanted = [(pools.labeled, method.labeled_views, args.batch_size, LABELED)]
    if method.unlabeled_views:
        if not len(pools.unlabeled):
            raise ValueError(f"{method.name} needs unlabelled images, and every image is labelled; use erm or fewer labels")
        wanted.append((pools.unlabeled, method.unlabeled_views, args.batch_size * args.mu, UNLABELED))
    streams, limit = [], args.device_data_limit * 2**30
    for images, names, size, purpose in wanted:
        order = EndlessOrder(len(images), size, args.seed, purpose)
        plans = endless_plans(order, start)
        streams.append(batches(images, training_views(tuple(names), args), plans, (args.seed, purpose), device, args.workers, limit))
    empty = torch.empty(0, dtype=torch.int64, device=device)
    for (x_l, y_l, _), *unlabeled in ahead(zip(*streams, strict=False), device):
        x_u, hidden, idx_u = unlabeled[0] if unlabeled else ((), empty, empty)
        yield Batch(x_l, y_l, x_u, idx_u, hidden)


def fit(method: Method, pools: Pools, args: Args, run: RunFolder, device: torch.device) -> dict[str, Any]:
    """Train `method` to the end (from the run's newest checkpoint if there is one) and return what result.json records of it.

    Raises NonFiniteLoss, Interrupted (SIGTERM, Ctrl-C; after saving), OSError (a checkpoint could not be written).
    """
    _forget_peak_memory(device)
    place(method, device).train()
    trainer = Trainer(method, args, device)
    state = run.load_state()
    if state is not None:
        trainer.load_state_dict(state, pools.split_hash)
        print(f"continuing {run.path} after step {trainer.step} of {trainer.total_steps}")
    run.truncate_metrics(trainer.step)
    method.prepare(pools)
    compile_networks(method, args)
    progress = Progress(f"{method.name} {args.data} seed {args.seed}", trainer.total_steps, trainer.step,
                        run.path / "tensorboard" if args.tensorboard else None)  # fmt: skip
    try:
        with interruptions() as arrived:
            _steps(trainer, pools, run, progress, arrived)
    finally:
        progress.close()
    return dict(
        evaluations=trainer.evaluations,
        images_per_second=round(trainer.images_seen / max(trainer.train_seconds, 1e-9), 1),
        minutes=round(trainer.train_seconds / 60, 3),
        peak_memory_mib=round(_peak_memory(device) / 2**20, 1),
    )


def _steps(trainer: Trainer, pools: Pools, run: RunFolder, progress: Progress, arrived: list[int]) -> None:
    args, iters = trainer.args, trainer.args.iters_per_epoch
    save_every = args.checkpoint_freq or iters
    clock, printed_step, since_print = time.perf_counter(), trainer.step, 0.0
    stream = training_batches(trainer.method, pools, args, trainer.device, trainer.step)
    while trainer.step < trainer.total_steps:
        epoch = trainer.epoch
        batch = next(stream)
        trainer.update(batch)
        trainer.images_seen += len(batch.y_l) + len(batch.idx_u)
        progress.advance()
        edge = trainer.step % iters == 0
        stop = bool(arrived)  # read once: what arrives later is seen after the next step, and saved then
        due = edge or trainer.step % save_every == 0 or stop
        if due or trainer.step % args.print_freq == 0:
            trainer.check_finite()
            seconds = time.perf_counter() - clock
            trainer.train_seconds += seconds
            since_print += seconds
            if edge or trainer.step % args.print_freq == 0:
                means = trainer.means.pop()
                steps = trainer.step - printed_step
                rate = (len(batch.y_l) + len(batch.idx_u)) * steps / since_print
                eta = (trainer.total_steps - trainer.step) * since_print / steps
                progress.losses(epoch, (trainer.step - 1) % iters + 1, iters, trainer.step, rate, eta, means)
                run.append_metrics({"step": trainer.step, "epoch": epoch, "kind": "train", **means})
                printed_step, since_print = trainer.step, 0.0
            if edge:
                _evaluate_and_record(trainer, pools, run, progress, epoch)
            if due:
                run.save_state(trainer.state_dict(pools.split_hash), trainer.step)
            clock = time.perf_counter()
        if stop and trainer.step < trainer.total_steps:
            raise Interrupted(arrived[0])


def _evaluate_and_record(trainer: Trainer, pools: Pools, run: RunFolder, progress: Progress, epoch: int) -> None:
    if trainer.test_stream is None:
        trainer.test_stream = test_stream(pools, trainer.args, trainer.device)
    row = evaluate_method(trainer.method, pools, trainer.args, trainer.device, trainer.test_stream)
    if row["loss"] - row["loss"] != 0:
        raise NonFiniteLoss(
            f"{trainer.method.name} predicts nan or infinity after step {trainer.step} (epoch {epoch}); lower --lr; "
            "the checkpoints from before it are kept"
        )
    progress.evaluation(epoch, trainer.step, row)
    best = max((past["top1"] for past in trainer.evaluations), default=-1.0)
    trainer.evaluations.append({"epoch": epoch, "step": trainer.step, **row})
    run.append_metrics({"step": trainer.step, "epoch": epoch, "kind": "test", **row})
    weights = trainer.method.evaluated().state_dict()
    run.save_weights("latest", weights)
    if row["top1"] > best:
        run.save_weights("best", weights)


def _forget_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # Linux only; elsewhere the figure is the peak of the process so far
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
