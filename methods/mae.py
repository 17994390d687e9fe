"""MAE: pre-training that sees a quarter of an image's patches and predicts the pixels of the others; no labels needed.

Kaiming He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377.  The encoder is what remains: give its
latest.pth to another method as --pretrained-backbone FILE.  Its accuracy is that of a linear probe, trained beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench import distributed
from ssl_bench.args import Args as CommonArgs
from ssl_bench.augment.draws import send
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.method import Batch, Loop, Method, Task
from ssl_bench.models import Classifier, layer_groups
from ssl_bench.nets.mae import Decoder, check_plain_vit, encode, keep
from ssl_bench.nets.positions import fix_positions
from ssl_bench.streams import MASK, generator_of


@dataclass
class Args(CommonArgs):
    arch: str = "vit_base_patch16_224"
    scratch: bool = True
    bottleneck_dim: int = 0
    mu: int = 7
    optimizer: str = "adamw"
    lr: float = 1.5e-4  # for the 256 images of a step; the paper's grows with their number
    lr_scheduler: str = "half_cos"
    lr_warmup_epochs: float = 5.0
    layer_decay: float | None = 1.0
    beta2: float = 0.95
    wd: float = 0.05
    epochs: int = 100
    log: str = "mae"
    mask_ratio: float = flag(0.75, "fraction of an image's patches that the encoder does not see", gt=0, lt=1)
    decoder_dim: int = flag(512, "width of the decoder", ge=4)
    decoder_depth: int = flag(8, "blocks of the decoder", ge=1)
    decoder_heads: int = flag(16, "attention heads of the decoder", ge=1)
    norm_pixels: bool = flag(True, "predict pixels less their patch's mean, by its deviation")
    fixed_positions: bool = flag(True, "sine-cosine positions in the encoder, not trained; without: learned, as timm's")


class ProbedEncoder(Classifier):
    """Of images logits (B, C), through which only what follows the backbone learns; of some of their patches the tokens (B, P + K, D)."""

    def __init__(self, base: Classifier) -> None:
        super().__init__(base.backbone, base.pool, base.bottleneck, base.head)

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:  # type: ignore[override]  # --positional is of other methods
        if kept is not None:
            return encode(self.backbone, x, kept)    # (B, P + K, D)
        with torch.no_grad():
            features = self.pool(self.backbone(x))   # (B, D)
        return self.head(self.bottleneck(features))  # (B, C)


@dataclass(frozen=True)
class MaskedBatch(Batch):
    """noise_l, noise_u: (B, N) a number in [0, 1) a patch of the labelled and of the unlabelled images."""

    noise_l: Tensor
    noise_u: Tensor


class MAE(Method[Args]):
    name = "mae"
    pretrains = True
    labeled_views = ("weak",)
    unlabeled_views: tuple[str, ...] = ("weak",)
    model: ProbedEncoder

    def __init__(self, args: Args, task: Task) -> None:
        super().__init__(args, task)
        self.unlabeled_views = self.unlabeled_views if task.num_unlabeled else ()
        size = (args.decoder_dim, args.decoder_depth, args.decoder_heads)
        self.decoder = Decoder(self.model.backbone, args.image_size, *size, args.norm_pixels)
        keep(torch.zeros(1, self.decoder.patches), args.mask_ratio)  # a wrong ratio is known before any step

    @classmethod
    def needs_unlabeled(cls, args: Args) -> bool:
        return False

    def build_model(self) -> ProbedEncoder:
        model = ProbedEncoder(self.build_classifier())
        check_plain_vit(model.backbone, self.args.arch)
        if self.args.fixed_positions:
            fix_positions(model.backbone)
        return model

    def optimizers(self) -> list[torch.optim.Optimizer]:
        (optimizer,), whole = super().optimizers(), [{"params": [*self.decoder.parameters()]}]
        for group in whole if self.args.layer_decay is None else layer_groups(self.decoder, 1, self.args.wd):
            optimizer.add_param_group(group)
        return [optimizer]

    def before_step(self, batch: Batch, loop: Loop) -> tuple[MaskedBatch, dict[str, Tensor]]:
        args, device = self.args, batch.y_l.device
        sizes = (args.batch_size, args.batch_size * args.mu * bool(batch.x_u))  # over all processes, of which this one has its rows
        noise = torch.rand(sum(sizes), self.decoder.patches, generator=generator_of(args.seed, MASK, loop.step))
        own = [part[distributed.rank() :: distributed.world_size()] for part in noise.split(sizes)]
        return MaskedBatch(**vars(batch), noise_l=send(own[0], device), noise_u=send(own[1], device)), {}

    def train_step(self, batch: MaskedBatch, loop: Loop) -> dict[str, Tensor]:
        (x_l,) = batch.x_l
        x = torch.cat((x_l, *batch.x_u))                                                     # (B + mu B, 3, S, S)
        kept = keep(torch.cat((batch.noise_l, batch.noise_u)), self.args.mask_ratio)         # (B + mu B, K)
        tokens = self.model(x, kept)                                                         # (B + mu B, P + K, D)
        reconstruction_loss = self.decoder(tokens, x, kept).mean()
        loop.backward(reconstruction_loss, "reconstruction_loss")

        y_l = self.model(x_l)                                                                # (B, C)
        cls_loss = F.cross_entropy(y_l.float(), batch.y_l)
        loop.backward(cls_loss, "cls_loss")
        accuracy = (y_l.argmax(dim=1) == batch.y_l).float().mean()
        return {"reconstruction_loss": reconstruction_loss, "cls_loss": cls_loss, "cls_acc": accuracy}


def main(argv: list[str] | None = None) -> None:
    launch(MAE, argv)


if __name__ == "__main__":
    main()
