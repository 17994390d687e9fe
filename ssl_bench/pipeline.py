"""Pre-training, fine-tuning, then a method's own stage: the run of a method that begins where those two end."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from ssl_bench import recipe
from ssl_bench.args import check_stages, same_setting
from ssl_bench.catalog import load_method
from ssl_bench.flags import FlagError, flag
from ssl_bench.method import Method, Stage
from ssl_bench.transformer_args import TransformerArgs, check_even

STAGES = ("pretrain", "finetune", "semi")


@dataclass
class PipelineArgs(TransformerArgs):
    """Adds the stages, and what fine-tuning wants otherwise than the last one: each finetune_X goes over X there."""

    stages: tuple[str, ...] = flag(
        ("finetune", "semi"), "what to train, in this order; pretrain: mae, with its own recipe", group="stages", choices=STAGES
    )
    from_checkpoint: str | None = flag(
        None, "weights that the first stage starts from: a file, or a run's folder", group="stages", names=("--from",)
    )
    pretrain_recipe: str = flag("default", "recipe of mae for pre-training: a name, a YAML file, or none", group="stages")
    pretrain_epochs: int | None = flag(None, "epochs of pre-training; default: of mae's recipe", group="stages", ge=1)
    pretrain_iters_per_epoch: int | None = flag(None, "steps of such an epoch; default: of mae's recipe", group="stages", ge=1)
    finetune_epochs: int = flag(100, "epochs of fine-tuning", group="stages", ge=1)
    finetune_iters_per_epoch: int = flag(25, "steps of such an epoch", group="stages", ge=1)
    finetune_batch_size: int = flag(512, "labelled images a step of fine-tuning, over all processes", group="stages", ge=1)
    finetune_batch_per_device: int = flag(
        0, "--batch-per-device of fine-tuning, which has no unlabelled images beside", group="stages", ge=0, identity=False
    )
    finetune_lr: float = flag(1e-4, "learning rate of fine-tuning", group="stages", gt=0)
    finetune_lr_warmup_epochs: float = flag(5.0, "linear warm-up of fine-tuning, epochs", group="stages", ge=0)
    finetune_wd: float = flag(0.05, "weight decay of fine-tuning", group="stages", ge=0)
    finetune_beta2: float = flag(0.999, "AdamW's beta2 in fine-tuning", group="stages", ge=0, lt=1)
    finetune_layer_decay: float = flag(0.65, "layer decay of fine-tuning", group="stages", gt=0, le=1)
    finetune_drop_path: float = flag(0.0, "stochastic depth of fine-tuning", group="stages", ge=0, lt=1)
    finetune_erasing: float = flag(0.0, "probability of random erasing in fine-tuning", group="stages", ge=0, le=1)
    finetune_disable_x_mixup: bool = flag(True, "labelled images are not mixed in fine-tuning", group="stages")
    finetune_ema_decay: float = flag(
        0.0, "moving average in fine-tuning, which the next stage's teacher starts from; 0: none", group="stages", ge=0, lt=1
    )
    ema_teacher: bool = flag(True, "a moving average of the student gives the pseudo-labels; without, the student as in FixMatch")
    ema_decay: float | None = flag(0.9999, "decay of the moving average; auto: 1 - 20 / steps", ge=0, lt=1, none="auto")

    @property
    def initial_weights(self) -> str:
        here = "mae, here" if "pretrain" in self.stages else super().initial_weights
        return self.from_checkpoint or self.pretrained_backbone or here

    @property
    def more_identity(self) -> dict[str, str]:
        return {"pretrain": pretraining(self)[1].hash} if "pretrain" in self.stages else {}

    def __post_init__(self) -> None:
        super().__post_init__()
        if "pretrain" in self.stages and "semi" in self.stages and "finetune" not in self.stages:
            raise FlagError("--stages pretrain semi: self-training starts from a fine-tuned network, name finetune too")
        check_stages(self.stages, STAGES)
        if "pretrain" in self.stages and not self.pos_embed:
            raise FlagError("--no-pos-embed: mae, which the stage pretrain is, needs positions; pre-train apart, or keep them")


Some = TypeVar("Some", bound=PipelineArgs)


def for_finetuning(args: Some) -> Some:
    """`args` with every finetune_X in place of X."""
    own = [field.name for field in fields(args) if field.name.startswith("finetune_")]
    return replace(args, **{name.removeprefix("finetune_"): getattr(args, name) for name in own})


def pipeline(args: PipelineArgs) -> list[Stage]:
    """The stages that ``--stages`` names, each with the arguments it trains by and ``stages`` holding only its own name.

    The first one starts from ``--from``: where it is the last stage, from a whole classifier; else from a backbone, as it would
    from ``--pretrained-backbone``.  FlagError: a stage with an odd batch to mix.
    """
    made: list[Stage] = []
    for name in args.stages:
        own, previous = replace(args, stages=(name,)), None
        if made:  # its weights come from the stage before
            own = replace(own, scratch=True, pretrained_backbone=None, from_checkpoint=None)
        elif args.from_checkpoint is not None and name == "semi":
            own, previous = replace(own, scratch=True, pretrained_backbone=None), args.from_checkpoint
        elif args.from_checkpoint is not None:
            own = replace(own, pretrained_backbone=args.from_checkpoint)
        if name == "pretrain":
            mae, found = pretraining(args)
            given = {"epochs": args.pretrain_epochs, "iters_per_epoch": args.pretrain_iters_per_epoch}
            values = found.values | {name: value for name, value in given.items() if value is not None}
            theirs = replace(same_setting(own, replace(mae.Args(), **values)), scratch=True)
            made.append(Stage(name, theirs, method=mae))
            continue
        own = for_finetuning(own) if name == "finetune" else own
        check_even(own, "--finetune-batch-size" if name == "finetune" else "--batch-size")
        made.append(Stage(name, own, previous=previous))
    return made


def pretraining(args: PipelineArgs) -> tuple[type[Method], recipe.Recipe]:
    """Who pre-trains, and by which recipe.  FlagError: there is no such recipe."""
    mae = load_method("mae")
    return mae, recipe.resolve(mae.Args, "mae", args.data, args.pretrain_recipe)


def cost_of_stages(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a run of several stages took: sums of minutes and joules (None unless all are known), images a second over all of them, the
    largest memory.  results: of each stage by its name."""
    minutes = {name: result["minutes"] for name, result in results.items()}
    joules = [result["joules"] for result in results.values() if result.get("joules") is not None]
    images = sum(result["minutes"] * result["images_per_second"] for result in results.values())
    return dict(
        minutes=round(sum(minutes.values()), 3), minutes_of_stages=minutes, joules=round(sum(joules), 1) if len(joules) == len(results) else None,
        images_per_second=round(images / max(sum(minutes.values()), 1e-9), 1),
        peak_memory_mib=max(result["peak_memory_mib"] for result in results.values()),
    )  # fmt: skip
