"""The flags every method shares.  A method's own ``Args`` subclasses one of these and adds or re-defaults fields."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ssl_bench.flags import FlagError, flag, specs


@dataclass
class Args:
    """Names, short forms and defaults are TLlib's where TLlib had the flag (specs: section 1)."""

    root: str | None = flag(None, "folder of the data set", group="data", positional=True, identity=False)
    data: str = flag("Digits", "data set: a name, or package.module:Name", names=("-d",), group="data")
    num_samples_per_class: int = flag(4, "labelled images per class", group="data", ge=1)
    all_labeled: bool = flag(
        False, "use every image of the labelled pool as labelled (default for a labelled/ unlabelled/ test/ folder)", group="data"
    )
    labeled_list: str | None = flag(
        None, "file that names the labelled images, instead of a number per class: csv with a column Index, names, or positions",
        group="data", identity="changed",
    )
    unlabeled_list: str | None = flag(
        None, "file that names the unlabelled images (default: all that are not labelled)", group="data", identity="changed"
    )
    unlabeled_all: bool = flag(
        False, "every training image is an unlabelled one too, the labelled ones included", group="data", identity="changed"
    )
    num_val_per_class: int = flag(
        0, "images per class held out of training, evaluated beside the test set, so that a table may --select val", group="data", ge=0,
        identity="changed",
    )  # fmt: skip
    download: bool = flag(True, "fetch the data set if it is missing", group="data", identity=False)
    skip_broken: bool = flag(False, "leave unreadable images out, and count them", group="data")
    workers: int = flag(
        4, "processes that decode files; 0: in the main process", names=("-j",), group="data", ge=0, identity=False
    )
    cache: str = flag(
        "none", "keep training files decoded, on disk or in memory, shared by all runs", group="data", identity=False,
        choices=("none", "disk", "ram"),
    )
    cache_size: int = flag(
        256, "short side of cached images, pixels; smaller ones stay as they are", group="data", ge=1, identity=False
    )
    cache_dir: str | None = flag(
        None, "folder of the disk cache (default: under the data's folder, else the user's cache)", group="data", identity=False
    )
    device_data_limit: float = flag(
        8.0, "sets in memory above this stay off the accelerator, GiB", group="data", ge=0, identity=False
    )

    image_size: int = flag(224, "side of the square network input, pixels", group="augmentation", ge=1)
    train_resizing: str = flag(
        "default", "training crop: random resized crop, or padded crop then resize", group="augmentation", choices=("default", "cifar")
    )
    crop_scale: float = flag(
        0.2, "least share of the image's area in a random resized crop", group="augmentation", gt=0, le=1, identity="changed"
    )
    val_resizing: str = flag(
        "default", "evaluation: resize to 8/7 and centre crop, resize only (cifar), or short side to 8/7 and centre crop (short)",
        group="augmentation", choices=("default", "cifar", "short"),
    )  # fmt: skip
    norm_mean: tuple[float, ...] = flag((0.485, 0.456, 0.406), "channel means, of 1", group="augmentation", many=3)
    norm_std: tuple[float, ...] = flag((0.229, 0.224, 0.225), "channel deviations, of 1", group="augmentation", many=3, gt=0)
    auto_augment: str = flag("rand-m10-n2-mstd2", "timm policy of the strong view; '' for none", group="augmentation")
    hflip: float = flag(0.5, "probability of a horizontal flip", group="augmentation", ge=0, le=1)
    color_jitter: float = flag(0.0, "colour jitter of the strong view, factor range 1 +- this", group="augmentation", ge=0, le=1)
    weak_color_jitter: float = flag(
        0.0, "colour jitter of the weak view, factor range 1 +- this", group="augmentation", ge=0, le=1, identity="changed"
    )
    erasing: float = flag(0.0, "probability of random erasing in the strong view", group="augmentation", ge=0, le=1)
    cutout: float = flag(0.0, "Cutout in the strong view: side as a fraction of the image", group="augmentation", ge=0, le=1)

    arch: str = flag("resnet50", "backbone: any timm model name, a WRN's such as wrn_28_2, or semiformer's two streams", names=("-a",), group="model")
    model_kwargs: tuple[str, ...] = flag((), "key=value pairs handed to timm.create_model", group="model")
    bottleneck_dim: int = flag(1024, "width of the bottleneck; 0: head directly on the features", group="model", ge=0)
    pool: bool = flag(True, "pool the feature map; without: class token, or flattened map", group="model")
    scratch: bool = flag(False, "random initial weights instead of ImageNet's", group="model")
    pretrained_backbone: str | None = flag(None, "file with backbone weights: MAE's, DINO's, a latest.pth, a state dict", group="model")
    finetune: bool = flag(False, "backbone learning rate x 0.1", group="model")

    positional: str = flag(
        "none", "a loss on where the network's tokens are, for every image it learns from: absolute or relative labels", group="positions",
        choices=("none", "apl", "rpl"), identity="changed",
    )
    positional_weight: float = flag(0.5, "weight of that loss", group="positions", ge=0, identity="changed")
    pairs_per_image: int = flag(
        0, "pairs of tokens of relative labels, drawn anew each step; 0: all", group="positions", ge=0, identity="changed"
    )
    pos_embed: bool = flag(True, "position embedding or relative bias of the network; without: none", group="positions", identity="changed")
    conditional_positions: bool = flag(
        False, "a depthwise convolution at the start of each block of a Swin tells positions", group="positions", identity="changed"
    )

    batch_size: int = flag(32, "labelled images a step, over all processes", names=("-b",), group="optimisation", ge=1, le=2**20)
    mu: int = flag(1, "unlabelled images per labelled image in a batch", group="optimisation", ge=1)
    optimizer: str = flag("sgd", "SGD with Nesterov momentum 0.9, or AdamW", group="optimisation", choices=("sgd", "adamw"))
    lr: float = flag(0.003, "learning rate of the head", names=("--learning-rate",), group="optimisation", gt=0)
    lr_scheduler: str = flag(
        "exp", "(1 + gamma k)^-decay, or cos(7 pi k / 16 K), k: step of K; step: times gamma at the --milestones; half_cos: down to "
        "--min-lr in half a cosine", group="optimisation", choices=("exp", "cos", "step", "constant", "half_cos"),
    )
    lr_gamma: float = flag(0.0004, "gamma of the exp schedule, 1/step; factor of the step schedule", group="optimisation", ge=0)
    milestones: tuple[int, ...] = flag((12, 24, 36, 48), "epochs at which the step schedule acts", group="optimisation", ge=1)
    lr_decay: float = flag(0.75, "exponent of the exp schedule", group="optimisation", ge=0)
    min_lr: float = flag(0.0, "learning rate at the end of the half_cos schedule", group="optimisation", ge=0, identity="changed")
    layer_decay: float | None = flag(
        None, "learning rate of a layer, as a multiple of the next one's (timm's layers; 1: the same); then vectors are not decayed by "
        "--wd", group="optimisation", gt=0, le=1, identity="changed",
    )  # fmt: skip
    beta2: float = flag(0.999, "AdamW's decay of the mean square gradient", group="optimisation", ge=0, lt=1, identity="changed")
    lr_warmup_epochs: float = flag(0.0, "linear warm-up of the learning rate, epochs", group="optimisation", ge=0)
    wd: float = flag(5e-4, "weight decay on every parameter", names=("--weight-decay",), group="optimisation", ge=0)
    clip_grad: float = flag(0.0, "gradient norm is clipped to this; 0: not", group="optimisation", ge=0)
    accumulate: int = flag(1, "micro-batches a step (less memory, same batch size)", group="optimisation", ge=1)
    batch_per_device: int = flag(
        0, "labelled images a device takes at a time, more are accumulated; 0: no limit", group="optimisation", ge=0, identity=False
    )
    epochs: int = flag(20, "epochs; one is --iters-per-epoch steps, then an evaluation", group="optimisation", ge=1)
    epochs_before: int = flag(
        0, "epochs of the learning rate's schedule that lie before this run", group="optimisation", ge=0, identity="changed"
    )
    epochs_after: int = flag(0, "epochs of it that lie after this run", group="optimisation", ge=0, identity="changed")
    iters_per_epoch: int = flag(500, "steps an epoch", names=("-i",), group="optimisation", ge=1)
    eval_batch_size: int = flag(256, "images a step of evaluation, over all processes", group="optimisation", ge=1, le=2**20, identity=False)
    precision: str = flag("fp32", "arithmetic of the forward pass", group="optimisation", choices=("fp32", "bf16", "fp16"))
    compile: bool = flag(False, "torch.compile the networks", group="optimisation")
    cuda_graphs: bool = flag(
        False, "compile, and replay forward and backward as CUDA graphs: for small networks whose kernels are short", group="optimisation",
        identity=False,
    )
    channels_last: bool = flag(True, "keep images and convolutions in channels-last order (CPU, CUDA)", group="optimisation", identity=False)
    concat: bool = flag(
        False, "one forward for labelled and unlabelled images; the network must have no BatchNorm", group="optimisation", identity=False
    )
    grad_checkpointing: bool = flag(
        False, "compute activations again in the backward pass: less memory, a third slower", group="optimisation", identity=False
    )
    shard: bool = flag(False, "spread the network over the processes (FSDP2), for those too large for one device", group="optimisation",
                       identity=False)  # fmt: skip

    seed: int = flag(0, "seed of split, order, augmentation and initial weights", group="run", ge=0, le=2**32 - 1)
    log: str = flag("runs", "folder under which the run folder is made", group="run", identity=False)
    phase: str = flag("train", "train, or evaluate a checkpoint", group="run", choices=("train", "test"), identity=False)
    resume: str | None = flag(
        None, "test phase: weights to evaluate: best (default), latest or a file", group="run", identity=False
    )
    recipe: str = flag("default", "recipe name, a YAML file, or none", group="run", identity=False)
    device: str = flag("auto", "cpu, cuda, cuda:1, mps; auto takes the best there is", group="run", identity=False)
    print_freq: int = flag(100, "steps between progress lines", names=("-p",), group="run", ge=1, identity=False)
    checkpoint_freq: int = flag(0, "steps between checkpoints; 0: one an epoch", group="run", ge=0, identity=False)
    tensorboard: bool = flag(False, "also write TensorBoard event files (extra [tensorboard])", group="run", identity=False)
    wandb: bool = flag(False, "also log to Weights & Biases (extra [wandb]; WANDB_MODE=offline: into the run's folder)", group="run", identity=False)
    wandb_project: str = flag("ssl-bench", "its project", group="run", identity=False)
    dry_run: bool = flag(False, "print the resolved arguments as JSON and stop", group="run", identity=False)

    @property
    def more_model_kwargs(self) -> tuple[str, ...]:
        """What other flags than --model-kwargs say of the network, in its form."""
        return ()

    @property
    def more_identity(self) -> dict[str, str]:
        """What makes two runs the same run besides the flags: what they stand for."""
        return {}

    @property
    def initial_weights(self) -> str:
        """Where the network's weights come from, for records: a file, ``none``, or ``imagenet``."""
        return self.pretrained_backbone or ("none" if self.scratch else "imagenet")


def check_stages(given: tuple[str, ...], known: tuple[str, ...]) -> None:
    """FlagError unless `given`, of --stages, are one or more of `known`, each once and in that order."""
    if not given or [*given] != [stage for stage in known if stage in given]:
        raise FlagError(f"--stages {' '.join(given)}: one or more of {', '.join(known)}, each once, in this order")


def same_setting(args: Args, onto: Args) -> Args:
    """`onto` with the data, network, input and devices of `args`: for a stage that another method trains in its own way."""
    groups = ("data", "model", "run")
    names = [name for name, spec in specs(Args).items() if spec.metadata["group"] in groups and name not in ("log", "recipe")]
    names += "image_size train_resizing val_resizing norm_mean norm_std hflip".split()
    names += "precision compile cuda_graphs channels_last eval_batch_size batch_per_device grad_checkpointing shard".split()
    return replace(onto, **{name: getattr(args, name) for name in names})


@dataclass
class TwoViewArgs(Args):
    """Adds TLlib's supervised term on a strong view of the labelled images."""

    trade_off_cls_strong: float = flag(0.1, "weight of cross-entropy on strongly augmented labelled images", ge=0)
