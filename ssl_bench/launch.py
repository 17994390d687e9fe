"""From a method and a command line to a finished run folder: the door every method script uses."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from ssl_bench import distributed, duplicates, flags, record, trackers, zoo
from ssl_bench.args import Args
from ssl_bench.assessment import evaluate_method
from ssl_bench.catalog import pretraining_names
from ssl_bench.datasets.cache import with_cache
from ssl_bench.datasets.images import DataSet
from ssl_bench.devices import describe_device, pick_device
from ssl_bench.distributed import LostProcess
from ssl_bench.feed import training_views
from ssl_bench.finite import NonFiniteLoss
from ssl_bench.flags import FlagError
from ssl_bench.interrupt import Interrupted, Terminated, terminations
from ssl_bench.messages import lenient_output
from ssl_bench.method import Method, Stage, Task
from ssl_bench.pipeline import cost_of_stages
from ssl_bench.placement import OutOfMemory, compile_networks, explained_memory, place
from ssl_bench.pools import Pools, check_lists, labels_are_given, labels_per_class, make_pools, with_true_labels
from ssl_bench.recipe import Recipe
from ssl_bench.recipe import resolve as resolve_recipe
from ssl_bench.result import describe, headline
from ssl_bench.run_state import RunElsewhere
from ssl_bench.shares import accumulated, check_shares, described
from ssl_bench.streams import INITIAL, seed_of
from ssl_bench.trainer import fit
from ssl_bench.weights import load_classifier, load_strictly

USER_ERRORS = (ValueError, OSError, NonFiniteLoss, OutOfMemory, LostProcess)


@dataclasses.dataclass(frozen=True)
class Whole:
    """The run that its stages are of, and what they share.  warned: of the data."""

    method: type[Method]
    args: Args
    recipe: Recipe
    folder: record.RunFolder
    stages: list[Stage]
    device: torch.device
    warned: list[str]


def launch(method: type[Method], argv: Sequence[str] | None = None) -> NoReturn:
    """Run `method` with a command line (default: the process's own) and leave the process with its exit code.

    0: done (or was done already); 1: the run failed, one line says why; 2: the command line is wrong; 130/143: stopped by
    Ctrl-C/SIGTERM, the same command continues; 75: another process trains this run.
    """
    lenient_output()
    distributed.leave(run_command(method, sys.argv[1:] if argv is None else argv))


def run_command(method: type[Method], argv: Sequence[str]) -> int:
    """The exit code of one method's command line; errors a user can mend print as one line on stderr."""
    prog = method.name
    try:
        args, recipe = resolve(method, argv)
        check_shares(args, distributed.announced_size())
    except FlagError as error:
        return 2 if distributed.announced_rank() else _fail(prog, error, 2)  # the same on every process
    if not distributed.announced_rank():
        print("".join(f"{prog}: {line}\n" for line in flags.warnings(args)), end="", file=sys.stderr)
    if args.dry_run:
        print(json.dumps({"method": method.name, **dataclasses.asdict(args)}))
        return 0
    try:
        with terminations(), distributed.process_group(device := pick_device(args.device)), _one_voice():
            return _test(method, args, device) if args.phase == "test" else train(method, args, recipe, device)
    except (Interrupted, RunElsewhere) as stop:
        return _fail(prog, stop, stop.exit_code)
    except KeyboardInterrupt as stop:
        signum = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        return _fail(prog, Interrupted(signum), 128 + signum)
    except USER_ERRORS as error:
        if os.environ.get("SSL_BENCH_TRACEBACK"):
            raise
        return _fail(prog, error, 1)


@contextlib.contextmanager
def _one_voice() -> Iterator[None]:
    """Of several processes the first prints; an error of any is printed when this is left."""
    with contextlib.ExitStack() as stack:
        if distributed.rank():
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def _fail(prog: str, error: Exception, code: int) -> int:
    message = record.one_line(error)
    prog += f" [process {distributed.announced_rank()}]" if distributed.announced_size() > 1 else ""
    print(f"{prog}: error: {message}" if code < 100 else f"{prog}: {message}", file=sys.stderr)
    return code


def resolve(method: type[Method], argv: Sequence[str]) -> tuple[Args, Recipe]:
    """Defaults < recipe < command line, converted and range-checked.  FlagError.

    No data and no network are touched, but for a look whether the root folder has a labelled/ part.
    """
    summary = (sys.modules[method.__module__].__doc__ or method.__doc__ or "").strip()
    return resolve_values(method, flags.parse(method.Args, argv, method.name, summary))


def resolve_values(method: type[Method], given: dict[str, Any]) -> tuple[Args, Recipe]:
    """`resolve` of values by field name, already converted."""
    if given.get("root") is not None and "data" not in given:
        raise FlagError(f"{given['root']} is given as the data folder, but no data set: add -d NAME")
    if "resume" in given and given.get("phase", "train") == "train":
        raise FlagError("--resume is for --phase test; training continues by itself from its run folder")
    defaults = method.Args()
    recipe = resolve_recipe(method.Args, method.name, given.get("data", defaults.data), given.get("recipe", defaults.recipe))
    values = recipe.values | given
    data, root = values.get("data", defaults.data), values.get("root")
    chosen = "num_samples_per_class" in given or "all_labeled" in given or values.get("labeled_list") is not None
    if not chosen and labels_are_given(data, root):
        values["all_labeled"] = True
    args = dataclasses.replace(defaults, **values)
    check_lists(args, "num_samples_per_class" in given)
    check_shares(args, 1)
    if args.lr_scheduler == "step" and args.lr_gamma < 0.01:
        raise FlagError(f"--lr-scheduler step multiplies the learning rate by --lr-gamma {args.lr_gamma:g} at each milestone: give --lr-gamma 0.1, or so")
    if args.cache != "none" and args.cache_size < args.image_size:
        raise FlagError(f"--cache-size {args.cache_size} is smaller than --image-size {args.image_size}: crops would be enlarged")
    return args, recipe


def train(method: type[Method], args: Args, recipe: Recipe, device: torch.device) -> int:
    """Train every stage that is not done yet; 0 on success.  RunElsewhere: another process does."""
    run = record.RunFolder(record.run_path(method.name, args))
    if not run.done:
        training_views((*method.labeled_views, *method.unlabeled_views), args)  # a wrong policy string is known before any data
        trackers.require(tensorboard=args.tensorboard, wandb=args.wandb)
        with run.claimed():
            if not run.done:  # by who held it until now
                _train(method, args, recipe, device, run)
                return 0
    print(f"{run.path} is done already: {headline(json.loads((run.path / 'result.json').read_text(encoding='utf-8')))}")
    return 0


def _train(method: type[Method], args: Args, recipe: Recipe, device: torch.device, run: record.RunFolder) -> None:
    path = run.path
    stages = [_ready(stage, method) for stage in method.stages(args)]
    folders = [run if len(stages) == 1 else record.RunFolder(path / stage.name) for stage in stages]
    weights = None
    if stages[0].previous is not None and not folders[0].done and not folders[0].has_state:
        file = record.weights_file(stages[0].previous)
        if record.method_of(file) in pretraining_names():
            raise ValueError(f"{file} is of a pre-training, its classifier is a probe: fine-tune first (--pretrained-backbone takes it)")
        weights = record.read_all_weights(file)
    data, pools = load(method, args, path / "split.npz")
    print(f"{method.name} on {args.data} -> {path}\nrecipe {recipe.name}: {', '.join(recipe.sections) or 'bare defaults'}")
    if data.broken:
        print(f"{len(data.broken)} broken images left out, the first is {data.broken[0]}")
    seen = _said_of(data, pools, folders[0])
    print("".join(f"{method.name}: warning: {text}\n" for text in seen), end="", file=sys.stderr)
    if not len(pools.unlabeled) and any(_trainer_of(stage).needs_unlabeled(stage.args) for stage in stages):
        raise ValueError(f"{method.name} needs unlabelled images, and every image is labelled; use erm or fewer labels")
    whole, results = Whole(method, args, recipe, run, stages, device, seen), list[dict[str, Any]]()
    for stage, folder in zip(stages, folders, strict=True):
        stage_pools = with_true_labels(pools) if stage.true_labels else pools
        if len(stages) > 1:
            print(f"{stage.name}, {len(results) + 1} of {len(stages)}{': done already' if folder.done else ''}")
        if not folder.done:
            before = folders[len(results) - 1] if results else None
            if before is not None and not folder.has_state:
                # What goes on takes the state before whole, see `Trainer.go_on_from`.
                weights = None if stage.continues else record.read_all_weights(before.checkpoints / "latest.pth")
            result = _train_stage(stage, whole, folder, stage_pools, weights, before)
            if folder.writes:
                who, theirs = (method, args) if folder is run else (_trainer_of(stage), stage.args)  # a run of one stage is known by its flags
                result |= describe(who, theirs, recipe, stage_pools, device, len(data.broken), folder.begun())
            folder.finish(result)
        results.append(json.loads((folder.path / "result.json").read_text(encoding="utf-8")))
    if len(stages) > 1:
        run.adopt(folder)
        own = describe(method, args, recipe, stage_pools, device, len(data.broken), run.begun()) if run.writes else {}
        run.finish(results[-1] | own | cost_of_stages({stage.name: result for stage, result in zip(stages, results, strict=True)}))
    print(headline(results[-1]))


def _said_of(data: DataSet, pools: Pools, first: record.RunFolder) -> list[str]:
    """What there is to say of the data: found by the first process when the run begins, read from its record when it goes on."""
    if not first.writes:
        return []
    recorded = first.path / "metrics.jsonl"
    if recorded.is_file():
        return [row["text"] for row in record.read_jsonl(recorded) if row["step"] == 0 and row["kind"] == "warning"]
    return [f"{data.name}: {found.line()}" for found in duplicates.of_run(data, pools)]


def _ready(stage: Stage, method: type[Method]) -> Stage:
    args = accumulated(stage.args, distributed.world_size())
    try:
        check_shares(args, distributed.world_size())
    except FlagError as error:
        own = f"{stage.name}_batch_size"
        message = str(error).replace("--batch-size", "--" + own.replace("_", "-")) if hasattr(args, own) else error
        raise FlagError(f"{stage.name}: {message}") from None
    if args.lr_scheduler == "exp" and args.epochs_before:
        raise FlagError(f"{stage.name}: --lr-scheduler exp counts steps, and epochs of another stage may have others: use half_cos, cos or step")
    if args.lr_scheduler == "half_cos" and args.lr_warmup_epochs >= args.epochs_before + args.epochs + args.epochs_after:
        print(f"note: {stage.name}: the learning rate warms up for {args.lr_warmup_epochs:g} epochs, and there are no more")
    return dataclasses.replace(stage, args=args, method=stage.method or method)


def _trainer_of(stage: Stage) -> type[Method]:
    assert stage.method is not None, "_ready says who"
    return stage.method


def load(method: type[Method], args: Args, saved: Path | None) -> tuple[DataSet, Pools]:
    """Data and pools of a run; names are checked first, since loading may take long.  saved: the run's split.npz."""
    zoo.check_name(args.data)
    method.check_arch(args.arch)
    with distributed.first_process_first():
        data = full = zoo.load(args.data, args.root, download=args.download, skip_broken=args.skip_broken)
        if args.cache != "none" and args.phase == "train":
            data = with_cache(full, args.cache, args.cache_size, args.cache_dir, args.root)
    if not distributed.minimum_(torch.tensor(int(data is not full))):
        data = full  # all processes read the same pixels
    pools = make_pools(
        data, args.num_samples_per_class, args.seed, all_labeled=args.all_labeled, labeled_list=args.labeled_list,
        unlabeled_list=args.unlabeled_list, unlabeled_all=args.unlabeled_all, num_val=args.num_val_per_class, paths=full.train.paths, saved=saved,
    )  # fmt: skip
    return data, pools


def _train_stage(
    stage: Stage, whole: Whole, run: record.RunFolder, pools: Pools,
    weights: tuple[dict[str, Any], dict[str, Any]] | None, before: record.RunFolder | None,
) -> dict[str, Any]:  # fmt: skip
    """run: the stage's own folder, of a run of one stage the run's; weights: of the stage `before`, see `record.read_all_weights`."""
    print(f"labeled_dataset_size: {len(pools.labeled)}\nunlabeled_dataset_size: {len(pools.unlabeled)}")
    print(f"test_dataset_size: {len(pools.test)}\ndevice: {describe_device(whole.device)}", flush=True)
    print(described(stage.args, distributed.world_size()), end="", flush=True)
    instance = build(_trainer_of(stage), stage.args, pools, pretrained=not run.has_state)
    if weights is not None and not run.has_state:
        try:
            instance.load_previous(*weights)
        except ValueError as error:
            raise ValueError(str(error).replace("the stage before", stage.previous or "the stage before")) from None
    several = [each.name for each in whole.stages] if run is not whole.folder else []
    begun = [(whole.folder, whole.args, whole.method.name, several)]
    if several:
        begun.append((run, stage.args, _trainer_of(stage).name, []))
    for folder, args, name, stages in begun:  # only now: what cannot be built leaves no run in the tables
        folder.create(name, args, whole.recipe.name, whole.recipe.hash, labels_per_class(args, pools), pools.classes, stages)
    run.begin_metrics(whole.warned)
    with explained_memory(stage.args, whole.device):
        return fit(instance, pools, stage.args, run, whole.device, before if stage.continues else None, stage is whole.stages[-1])


def build(method: type[Method], args: Args, pools: Pools, *, pretrained: bool) -> Method:
    """The method with its initial weights, a function of --seed."""
    torch.manual_seed(seed_of(args.seed, INITIAL))
    return method(args, Task(len(pools.classes), len(pools.labeled), len(pools.unlabeled), pretrained))


def _test(method: type[Method], args: Args, device: torch.device) -> int:
    run = record.RunFolder(record.run_path(method.name, args))
    which = args.resume or "best"
    weights = run.checkpoints / f"{which}.pth" if which in ("best", "latest") else Path(which)
    if not weights.is_file():
        raise FileNotFoundError(f"no checkpoint {weights}; train first with the same flags, or give --resume FILE")
    _, pools = load(method, args, None)
    stage = method.stages(args)[-1]
    args = dataclasses.replace(stage.args, pretrained_backbone=None)
    instance = build(stage.method or method, args, pools, pretrained=False)
    load_classifier(instance.evaluated(), str(weights))
    others = record.read_all_weights(weights)[1]
    for name, network in instance.also_evaluated().items() if others else ():
        load_strictly(network, others[name], f"latest_{name}.pth beside {weights}")
    with explained_memory(args, device):
        place(instance, args, device)
        compile_networks(instance, args)
        row = evaluate_method(instance, pools, args, device, beside=bool(others))
    print(f"{weights}\n * Acc@1 {row['top1']:.3f} Acc@5 {row['top5']:.3f}\n * Mean Cls {row['mean_class']:.3f}")
    print(json.dumps(row))
    return 0
