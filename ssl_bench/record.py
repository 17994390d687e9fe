"""A run's folder: arguments, environment, split, metrics, atomic checkpoints, result.

    <log>/<method>/<data>/<n>x/<seed>-<hash of the arguments>/
        args.json  environment.json  classes.json  split.npz  metrics.jsonl  log.txt
        checkpoints/state-00000500.pt (everything, last two)  latest.pth  best.pth (weights of the evaluated network)
        checkpoints/latest_<name>.pth                         (of networks evaluated beside it, such as a teacher)
        <stage>/                                              (the same for each stage of a method that has several)
        predictions.npz                                       (of the last evaluation: target, prediction, confidence of each test image)
        result.json                                           (only when the run is done)
        failed.json  .lock  .owner.json  .queued              (see run_state)
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_bench import distributed, flags, messages, run_state
from ssl_bench.args import Args
from ssl_bench.atomic import flush_file, make_folder, write_bytes, write_json, write_with
from ssl_bench.environment import environment
from ssl_bench.interrupt import Interrupted, Unread
from ssl_bench.split_list import content_hash
from ssl_bench.weights import read_classifier, read_tensors, read_weights

KEPT_STATES = 2
RESERVED = re.compile(r'[<>:"/\\|?*\x00-\x1f]|[. ]+$')  # not in the name of a Windows file
DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")  # what Windows takes for a device, whatever the suffix
BUGS = (TypeError, LookupError, AttributeError, AssertionError, NameError, ImportError)  # their messages need their names


def identity(args: Args) -> dict[str, Any]:
    """The arguments that make two runs the same run (not where it logs, how often it prints, on which and how many devices)."""
    values = {
        name: getattr(args, name) for name, spec in flags.specs(type(args)).items()
        if spec.metadata["identity"] is True or spec.metadata["identity"] == "changed" and getattr(args, name) != spec.default
    }  # fmt: skip
    if args.root is not None and (args.data == "ImageFolder" or ":" in args.data):
        values["root"] = os.path.realpath(os.path.expanduser(args.root))  # here the folder, not the name, says which images
    values["accumulate"] = 1  # a step in parts is the same step; kept so that runs of 0.1.0 keep their names
    if args.lr_scheduler != "step":
        del values["milestones"]  # which nothing reads then
    values |= lists(args)
    if args.labeled_list is not None:
        del values["num_samples_per_class"]
    values |= args.more_identity
    if args.cuda_graphs:
        values["compile"] = True
    if args.cache != "none":
        values["cache_size"] = args.cache_size  # on disk or in memory, the pixels are the same
    return values


def lists(args: Args) -> dict[str, str]:
    """Flag -> sha256 of the file it names, for the lists that are given: what they say counts, not where they lie.  OSError."""
    given = {name: getattr(args, name) for name in ("labeled_list", "unlabeled_list")}
    return {name: content_hash(file) for name, file in given.items() if file is not None}


def args_hash(method: str, args: Args) -> str:
    """First 12 hex digits of the sha256 of the method's name and the identity arguments."""
    text = json.dumps([method, identity(args)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_path(method: str, args: Args) -> Path:
    """Where this run lives; with a list of labelled images its file's stem stands for <n>x."""
    labels = "all" if args.all_labeled else f"{args.num_samples_per_class}x"
    if args.labeled_list is not None:
        labels = Path(args.labeled_list).stem.lstrip(".") or "list"  # a table passes hidden folders over
    data = args.data.replace(":", ".").replace("/", "-")
    return Path(args.log) / method / portable(data) / portable(labels) / f"{args.seed}-{args_hash(method, args)}"


def portable(name: str) -> str:
    """A folder's name that every system takes: `name`, with `_` for what Windows does not.

    Two names that differ in case only need no care: the hash in the last folder's name tells their runs apart."""
    name = RESERVED.sub("_", name)
    return f"{name}_" if DEVICE.fullmatch(name) else name


def weights_file(path: str) -> Path:
    """The file of weights that `path` names: itself, the latest.pth of a run's folder, or - for TLlib's habit of naming
    LOG/checkpoints/latest.pth - that file of the only run below LOG.  FileNotFoundError says what was looked for;
    ValueError: of a run that is not finished."""
    found = _weights_file(path)
    run = found.parent.parent
    if (run / "args.json").is_file() and not (run / "result.json").is_file():
        raise ValueError(f"{found} is of a run that is not finished: its own command continues it")
    return found


def method_of(weights: Path) -> str:
    """The method of the run that `weights` lies in, "" where it is in none."""
    args = weights.parent.parent / "args.json"
    return json.loads(args.read_text(encoding="utf-8")).get("method", "") if args.is_file() else ""


def _weights_file(path: str) -> Path:
    given = Path(path).expanduser()
    if given.is_file():
        return given
    top, name = (given, "latest.pth") if given.is_dir() else (given.parent.parent, given.name)
    own = top / "checkpoints" / name
    found = [own] if own.is_file() else sorted(top.glob(f"*/*/*/*/checkpoints/{name}"))
    if len(found) != 1:
        several = f": {top} holds {len(found)} runs, name one of their folders" if found else "; name a .pth file or the folder of a finished run"
        raise FileNotFoundError(f"no weights {path!r}{several}")
    return found[0]


def read_all_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, torch.Tensor]]]:
    """The weights in `path`, and those of the networks that were evaluated beside, by name: of latest_<name>.pth next to latest.pth."""
    beside = sorted(path.parent.glob("latest_*.pth")) if path.name == "latest.pth" else []
    return read_classifier(path), {other.stem.removeprefix("latest_"): read_weights(other) for other in beside}


class RunFolder:
    """Reads and writes one run's files.  Every write is atomic: tmp, fsync, replace.

    Of several processes of one run the first writes and decides what is there; to the others, writing is nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.writes = distributed.rank() == 0

    @property
    def done(self) -> bool:
        return distributed.agree(run_state.is_done(self.path))

    @property
    def has_state(self) -> bool:
        return distributed.agree(bool(self._states()))

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """While inside, no other process trains this run; an error that leaves it is kept in failed.json.

        Not one that the same command gets over: stopped, or a process lost.  RunElsewhere, on every process: it is taken.
        """
        with contextlib.ExitStack() as stack:
            taken = None
            if self.writes:
                try:
                    stack.enter_context(run_state.held(self.path))
                except run_state.RunElsewhere as error:
                    taken = str(error)
                else:
                    run_state.forget_failure(self.path)
                    run_state.forget_queued(self.path)
            taken = distributed.agree(taken)
            if taken:
                raise run_state.RunElsewhere(taken)
            try:
                yield
            except (Interrupted, distributed.LostProcess):
                raise
            except BrokenPipeError as error:
                raise Unread from error
            except Exception as error:
                with contextlib.suppress(OSError):  # of a disk that is full or gone the error itself says more
                    run_state.note_failure(self.path, f"{type(error).__name__}: " * isinstance(error, BUGS) + one_line(error), 1)
                raise

    def create(
        self, method: str, args: Args, recipe: str, recipe_hash: str, labels_per_class: int | str, classes: tuple[str, ...],
        stages: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Make the folder and write args.json, environment.json and classes.json.  stages: those with folders of their own, in order."""
        if not self.writes:
            return
        make_folder(self.checkpoints)
        for unfinished in (*self.path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")):
            unfinished.unlink()  # of a process that was killed while it wrote
        body = dict(
            method=method, args=dataclasses.asdict(args), args_hash=args_hash(method, args), identity=list(identity(args)),
            recipe=recipe, recipe_hash=recipe_hash, labels_per_class=labels_per_class, lists=lists(args), stages=list(stages),
        )
        write_json(self.path / "args.json", body)
        write_json(self.path / "environment.json", environment())
        write_json(self.path / "classes.json", list(classes))

    def begun(self) -> dict[str, Any]:
        """What `create` recorded when the run began, or was continued last: args.json and environment.json in one."""
        parts = (json.loads((self.path / name).read_text(encoding="utf-8")) for name in ("args.json", "environment.json"))
        return {name: value for part in parts for name, value in part.items()}

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json: the run is done, on every process."""
        if self.writes:
            write_json(self.path / "result.json", result)
        distributed.barrier()

    def adopt(self, stage: RunFolder) -> None:
        """Take over weights and predictions of the run's last stage: whoever looks for a run's finds them in one place."""
        if self.writes:
            for file in (*stage.checkpoints.glob("*.pth"), *stage.path.glob("predictions.npz")):
                write_bytes(self.path / file.relative_to(stage.path), file.read_bytes())

    def begin_metrics(self, warned: list[str]) -> None:
        """The first rows of metrics.jsonl, of kind ``warning``: what was said of the data before the first step."""
        if not (self.path / "metrics.jsonl").exists():
            for text in warned:
                self.append_metrics({"step": 0, "epoch": 0, "kind": "warning", "text": text})

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl; nan, which JSON does not have, becomes null."""
        if not self.writes:
            return
        path = self.path / "metrics.jsonl"
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({key: value if value == value else None for key, value in row.items()}) + "\n")
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror or error}; the checkpoint before it is kept") from error

    def truncate_metrics(self, step: int) -> None:
        """Drop lines after `step` (a resumed run writes them again) and a line cut short by a kill."""
        path = self.path / "metrics.jsonl"
        if self.writes and path.is_file():
            kept = [row for row in read_jsonl(path) if row["step"] <= step]
            write_bytes(path, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def save_state(self, state: dict[str, Any], step: int) -> None:
        """Write the full training state after `step` steps; keep the newest two of those that can be read."""
        if not self.writes:
            return
        if (self.path / "metrics.jsonl").is_file():
            flush_file(self.path / "metrics.jsonl")  # who resumes from this state does not write these rows again
        own = self.checkpoints / f"state-{step:08d}.pt"
        write_tensors(own, state)
        at = (states := self._states()).index(own)
        for old in (*states[:at], *states[at + KEPT_STATES :]):  # later ones `load_state` could not read
            old.unlink()

    def save_weights(self, name: str, weights: dict[str, torch.Tensor]) -> None:
        """Write ``latest.pth`` or ``best.pth``: a flat state dict with TLlib's names."""
        if self.writes:
            write_tensors(self.checkpoints / f"{name}.pth", weights)

    def save_predictions(self, arrays: dict[str, Any]) -> None:
        """Write predictions.npz, see `evaluate.Answers.arrays`."""
        if self.writes:
            write_with(self.path / "predictions.npz", lambda file: np.savez_compressed(file, **arrays))

    def load_state(self) -> dict[str, Any] | None:
        """The newest state that can be read, None without any; an unreadable one is named in a warning and passed over."""
        if not self.writes:
            readable = distributed.agree(None)
            return None if readable is None else read_tensors(readable)
        states = self._states()
        for path in states:
            try:
                state = read_tensors(path)
            except ValueError as error:
                print(f"warning: {error}; falling back to the checkpoint before it" if path != states[-1] else f"warning: {error}", file=sys.stderr)
            else:
                distributed.agree(path)
                return state
        if states:
            raise ValueError(f"no checkpoint in {self.checkpoints} can be read; remove that folder to start the run anew")
        return distributed.agree(None)

    def _states(self) -> list[Path]:
        return sorted(self.checkpoints.glob("state-*.pt"), key=lambda path: (len(path.name), path.name), reverse=True)  # by step


def one_line(error: Exception) -> str:
    """The message of an error.  A DataLoader worker's carries its traceback; there the last line is the message itself."""
    return re.sub(r"^(\w+\.)+[A-Z]\w*: ", "", messages.one_line(messages.last_of_trace(error)))


def write_tensors(path: Path, tree: Any) -> None:
    """Atomic ``torch.save``."""
    write_with(path, lambda file: torch.save(tree, file))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSON-lines file; a last line cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
