"""fit(): THE loop.  Zero the gradients, let the method make its step, clip, step, evaluate, record, resume."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssl_bench import distributed, parallel, schedules
from ssl_bench.args import Args
from ssl_bench.evaluate import evaluate
from ssl_bench.feed import test_stream, training_batches
from ssl_bench.interrupt import Interrupted, interruptions
from ssl_bench.method import Batch, Method
from ssl_bench.metrics import RunningMeans
from ssl_bench.placement import autocast, compile_networks, forget_peak_memory, peak_memory, place
from ssl_bench.pools import Pools
from ssl_bench.progress import Progress
from ssl_bench.record import RunFolder, args_hash
from ssl_bench.streams import STEP, Stream, seed_of


class NonFiniteLoss(ArithmeticError):
    """A loss term became nan or infinite; the message names term, step and what was kept."""


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

    def check_finite(self) -> None:
        """NonFiniteLoss if a term or a weight became nan or infinite.  Waits for the device: between steps only."""
        kept = "lower --lr or use --precision fp32; the checkpoints from before it are kept"
        first = {}
        if self.first_bad:  # the same on every process, so that all stop for the same reason
            first = dict(zip(self.first_bad, distributed.minimum_(torch.stack([*self.first_bad.values()])).tolist(), strict=True))
        term = min(first, key=first.get, default=None)
        if term is not None and first[term] < self.total_steps:
            epoch = first[term] // self.args.iters_per_epoch
            where = f"loss term {term!r} of {self.method.name} became nan or infinite at step {first[term]} (epoch {epoch})"
            raise NonFiniteLoss(f"{where}; {kept}")
        weights = dict(self.method.named_parameters())
        finite = [parallel.local(value).isfinite().all() for value in weights.values()]
        finite = distributed.minimum_(torch.stack(finite).to(torch.int32)).tolist()
        if not all(finite):
            name = list(weights)[finite.index(0)]
            raise NonFiniteLoss(f"{name} of {self.method.name} became nan or infinite before step {self.step}; {kept}")

    def state_dict(self, split_hash: dict[str, str]) -> dict[str, Any]:
        """Everything that resumes the run, whole on every process.  Collective: it also evens out what differs between them."""
        parallel.average_batch_norm(self.method)
        self.means.average()
        return dict(
            args_hash=self.args_hash, split_hash=split_hash, step=self.step,
            method=parallel.gathered(self.method.state_dict()), scaler=self.scaler.state_dict(),
            optimizers=[parallel.gathered(optimizer.state_dict()) for optimizer in self.optimizers],
            means=self.means.state_dict(), evaluations=self.evaluations, train_seconds=self.train_seconds, images_seen=self.images_seen,
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
        """ValueError when the state is another run's."""
        for what, theirs, ours in (
            ("other arguments", state.get("args_hash"), self.args_hash),
            ("another split", state.get("split_hash"), split_hash),
        ):
            if theirs != ours:
                raise ValueError(f"the checkpoint was made with {what} ({theirs}, here {ours}); remove it or use another --log")
        self._load(state)
        self.means.load_state_dict(state["means"])
        for name in ("step", "evaluations", "train_seconds", "images_seen"):
            setattr(self, name, state[name])


def _seed(seed: int, device: torch.device) -> None:
    """torch.manual_seed for the generators that a step on `device` draws from; that one asks every kind of device, for 0.3 ms."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def evaluate_method(
    method: Method, pools: Pools, args: Args, device: torch.device, stream: Stream | None = None, beside: bool = True
) -> dict[str, float]:
    """The test set's figures in the precision of training, ``<name>_*`` those of `Method.also_evaluated`; the method is left in
    training mode.

    stream: a `test_stream` to use again; None: one made for this evaluation; beside: whether those are evaluated too.
    """

    def figures(network: Callable[[Tensor], Tensor]) -> dict[str, float]:
        def predict(x: Tensor) -> Tensor:
            if args.cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()
            with autocast(args, device):  # around the network only: the view's arithmetic on pixels is exact
                return network(x)

        return evaluate(predict, stream, len(pools.classes))

    stream = stream or test_stream(pools, args, device)
    method.eval()
    parallel.average_batch_norm(method)
    row = figures(method.predict)
    for name, network in method.also_evaluated().items() if beside else ():
        row |= {f"{name}_{figure}": value for figure, value in figures(network).items()}
    method.train()
    return row


def fit(
    method: Method, pools: Pools, args: Args, run: RunFolder, device: torch.device, before: RunFolder | None = None
) -> dict[str, Any]:
    """Train `method` to the end (from the run's newest checkpoint if there is one) and return what result.json records of it.

    before: the stage whose optimisers' memory a new run goes on with; None: it begins with none.

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
    progress = Progress(f"{method.name} {args.data} seed {args.seed}", trainer.total_steps, trainer.step,
                        run.path / "tensorboard" if args.tensorboard and run.writes else None)  # fmt: skip
    try:
        with interruptions() as arrived:
            _steps(trainer, pools, run, progress, arrived)
    finally:
        progress.close()
    return dict(
        evaluations=trainer.evaluations,
        images_per_second=round(trainer.images_seen / max(trainer.train_seconds, 1e-9), 1),
        minutes=round(trainer.train_seconds / 60, 3),
        peak_memory_mib=round(peak_memory(device) / 2**20, 1),
    )


def _steps(trainer: Trainer, pools: Pools, run: RunFolder, progress: Progress, arrived: list[int]) -> None:
    args, iters = trainer.args, trainer.args.iters_per_epoch
    save_every = args.checkpoint_freq or iters
    clock, printed_step, since_print = time.perf_counter(), trainer.step, 0.0
    stream = training_batches(trainer.method, pools, args, trainer.device, trainer.step)
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
        if due or trainer.step % args.print_freq == 0:
            trainer.check_finite()
            seconds = time.perf_counter() - clock
            trainer.train_seconds += seconds
            since_print += seconds
            if edge or trainer.step % args.print_freq == 0:
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
        if stop and trainer.step < trainer.total_steps:
            raise Interrupted(stop)
    vote.close()


def _evaluate_and_record(
    trainer: Trainer, pools: Pools, run: RunFolder, progress: Progress, epoch: int, means: dict[str, float]
) -> None:
    if trainer.test_stream is None:
        trainer.test_stream = test_stream(pools, trainer.args, trainer.device)
    row = evaluate_method(trainer.method, pools, trainer.args, trainer.device, trainer.test_stream)
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
    weights = parallel.gathered(trainer.method.evaluated().state_dict())
    run.save_weights("latest", weights)
    for name, network in trainer.method.also_evaluated().items():
        run.save_weights(f"latest_{name}", parallel.gathered(network.state_dict()))
    if row["top1"] > best:
        run.save_weights("best", weights)
