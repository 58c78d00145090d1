"""DINO: a student predicts the prototypes that its momentum teacher assigns to the other view.

Caron et al. Emerging Properties in Self-Supervised Vision Transformers. ICCV 2021, arXiv 2104.14294. Defaults: the
released code's (5e-4 for 256 images, which are 512 views; weight decay 0.04 to 0.4, clipping at 3, teacher momentum
0.996 to 1, center momentum 0.9, weight-normalized last layer) with the teacher's temperature of the 300-epoch ViT run:
0.04 to 0.07 over 30 epochs, 10 epochs of warm-up, last layer frozen for one.

Departures: two global crops and no local ones, so that a view costs the same for all methods, with the wider range of
scales that the code then recommends (from 0.14); the student is evaluated, not the teacher; no stochastic depth; the
global gradient norm is clipped, not that of each parameter; the temperature rises per step, not per epoch; the learning
rate ends at zero, not at 1e-6; frozen prototypes have a gradient of zero, which AdamW counts, not None; crops are
resized bilinearly.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmark.interfaces import AdamW, Batch, Method, Model
from benchmark.nn.heads import PrototypeHead
from benchmark.nn.losses import dino_loss, global_mean, swap_view_pairs
from benchmark.nn.momentum import cosine_momentum, ema_copy, ema_update_
from benchmark.sampling import Augmentation, Sampling

FIRST = Augmentation(scale=(0.14, 1.0), saturation=0.2, blur=1.0)
SECOND = replace(FIRST, blur=0.1, solarize=0.2)


@dataclass(frozen=True)
class DINO(Method):
    """Hyper-parameters of DINO. Durations are shares of the schedule."""

    sampling: Sampling = Sampling(crops=2, augmentation=FIRST, further=(SECOND,))
    optimizer: AdamW = AdamW(
        base_lr=5e-4,
        base_views=512,
        weight_decay=0.04,
        betas=(0.9, 0.999),
        warmup=10 / 300,
        final_weight_decay=0.4,
        clip_norm=3.0,
    )
    prototypes: int = 65_536
    hidden: int = 2048
    bottleneck: int = 256
    student_temperature: float = 0.1
    teacher_temperatures: tuple[float, float] = (0.04, 0.07)
    """Temperatures of the teacher at the start and after `temperature_warmup`, linear in between."""
    temperature_warmup: float = 30 / 300
    momentum: float = 0.996
    """Momentum of the teacher at the start. It rises to one."""
    centre_momentum: float = 0.9
    frozen: float = 1 / 300
    """Share of the schedule during which the prototypes of the student are frozen."""

    def build(self, vit: VisionTransformer) -> Model:
        """Return the ViT and head, with teacher copies of both."""
        return DINOModel(vit, self)

    def tiny(self) -> Self:
        """Return a variant with a narrow head and few prototypes, and with settings for short runs."""
        optimizer = replace(self.optimizer, base_lr=1e-3, base_views=240)
        return replace(self, momentum=0.9, prototypes=256, hidden=256, bottleneck=64, optimizer=optimizer)


class DINOModel(Model):
    """Student and teacher. The two views of an image are adjacent."""

    centre: Tensor
    batch_centre: Tensor
    progress: Tensor

    def __init__(self, vit: VisionTransformer, method: DINO) -> None:
        super().__init__(vit)
        self.method = method
        self.head = PrototypeHead(vit.embed_dim, method.hidden, method.bottleneck, method.prototypes)
        self.teacher_vit, self.teacher_head = ema_copy(vit), ema_copy(self.head)
        self.register_buffer("centre", torch.zeros(method.prototypes))
        self.register_buffer("batch_centre", torch.zeros(method.prototypes), persistent=False)
        self.register_buffer("progress", torch.zeros(()))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean cross-entropy of the student on each view and the teacher on the other view."""
        teacher_VD = self.encode_with_teacher(batch.images_V3HW)
        losses_V = self.forward_in_microbatches(
            self.cross_entropy, self.encode_images(batch.images_V3HW), swap_view_pairs(teacher_VD)
        )
        return {"loss": losses_V.mean()}

    @torch.no_grad()
    def encode_with_teacher(self, images_V3HW: Tensor) -> Tensor:
        """Return unit vectors (V, bottleneck) of the teacher, and store their mean scores to update the center."""
        teacher_VD: Tensor = self.teacher_head(self.forward_in_microbatches(self.teacher_vit, images_V3HW))
        self.batch_centre = self.teacher_head.scores(global_mean(teacher_VD))  # scores are linear
        return teacher_VD

    def cross_entropy(self, features_VD: Tensor, teacher_VD: Tensor) -> Tensor:
        """Return the loss of each row, (V,), from the student's features and the teacher's unit vectors."""
        student_VK = self.head.scores(self.head(features_VD), self.progress < self.method.frozen)
        teacher_VK = self.teacher_head.scores(teacher_VD)
        temperatures = self.method.student_temperature, self.teacher_temperature()
        return dino_loss(student_VK, teacher_VK, self.centre, *temperatures)

    def teacher_temperature(self) -> Tensor:
        """Return the teacher's temperature in the next step, a scalar."""
        start, end = self.method.teacher_temperatures
        return start + (end - start) * (self.progress / self.method.temperature_warmup).clamp(max=1)

    def after_step(self, progress: float) -> None:
        """Update teacher and center, and store `progress` for the temperature and the freezing of the next step."""
        momentum = cosine_momentum(self.method.momentum, progress)
        ema_update_(self.teacher_vit, self.vit, momentum)
        ema_update_(self.teacher_head, self.head, momentum)
        self.centre.lerp_(self.batch_centre, 1 - self.method.centre_momentum)
        self.progress.fill_(progress)


METHOD = DINO()
