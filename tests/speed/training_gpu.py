"""StableRep's training step on a GPU: `python -m tests.speed.training_gpu`; `--rehearse` for a tiny one anywhere.

ViT-B/16, 224 pixels, 256-pixel JPEGs that are random photographs: `benchmark.training.loop` (bf16, compiled blocks,
fused attention and optimiser, views made on the GPU) beside the released code's recipe in the same run (fp16 with a
gradient scaler, plain attention, nothing compiled, each image augmented by torchvision on the CPU), and the share of
the matrix peak measured here. First loss and features are compared with float32 on the CPU. Also: the input alone, the
loss at the paper's batch, and the memory of a batch of 8,192 views in slices. The table goes to `results/speed/`.
"""

import argparse
import datetime
import functools
import io
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from baselines import stablerep
from benchmark.files import write_bytes
from benchmark.interfaces import Experiment, Model, Schedule, ViTConfig
from benchmark.nn.losses import multi_positive
from benchmark.records import create
from benchmark.training import checkpoint, cost, loop
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.execution import ExecutionConfig
from datasets_scripts.generation import generate, provenance
from tests.speed.datasets import built, photographs
from tests.speed.generation_gpu import peak, seconds
from tests.speed.training import RELEASED

STEPS, WARM_UP = 20, 5
VIEWS = 6


@dataclass(frozen=True)
class Setting:
    """Sizes of a measurement."""

    device: torch.device
    encoder: ViTConfig
    batch_views: int
    large: int
    """Views of the batch that is done in slices."""
    side: int
    """Of the matrix product whose speed is the peak."""
    workers: int


def experiment(setting: Setting, batch_views: int) -> Experiment:
    """StableRep for some steps; at rehearsal with a narrow head."""
    method = stablerep.METHOD if setting.device.type == "cuda" else stablerep.METHOD.tiny()
    schedule = Schedule((STEPS + WARM_UP) * batch_views, batch_views)
    return Experiment(
        "speed/stablerep", 1, "stablerep", method, "speed/speed", "0" * 40, schedule, setting.encoder, (0,)
    )


def run(
    setting: Setting, data: CaptionImageDataset, folder: Path, batch_views: int, slices: int | None = None
) -> loop.Trainer:
    """The loop's own run, before its first step."""
    declared = experiment(setting, batch_views)
    execution = ExecutionConfig(setting.device, slices, setting.workers)
    model = loop.build_model(declared, 0).to(setting.device).train()
    run = checkpoint.Run(
        experiment=declared.name,
        fingerprint=create.fingerprint(declared),
        seed=0,
        content_sha256=data.manifest.content_sha256,
    )
    return loop.Trainer(declared, run, model, data, folder, execution)


def gap(setting: Setting, data: CaptionImageDataset, folder: Path) -> tuple[float, float]:
    """Relative difference of the loss, and cosine distance of features, between this device and float32 on the CPU."""
    small = run(setting, data, folder, 8 * VIEWS)
    reference: Model = loop.build_model(small.experiment, 0).train()
    on_device = small.batches.batch(0, setting.device).render()
    with small.execution.autocast():
        there = small.model.loss(on_device)["loss"].float().cpu()
        features = small.model.encode_images(on_device.images_V3HW).float().cpu()
    batch = small.batches.batch(0).render()
    here = reference.loss(batch)["loss"]
    cosine = F.cosine_similarity(features, reference.encode_images(batch.images_V3HW)).min()
    return abs(float(there / here) - 1), 1 - float(cosine)


def ours(
    setting: Setting, data: CaptionImageDataset, folder: Path, batch_views: int, slices: int | None = None
) -> float:
    """Views per second of the loop's steps, batches being read, decoded and augmented meanwhile."""
    one = run(setting, data, folder, batch_views, slices)
    batches = one.remaining_batches()
    steps = STEPS if slices is None else 3

    def step() -> None:
        one.train_step(next(batches))

    for _ in range(WARM_UP if slices is None else 1):
        step()
    return batch_views / statistics.median(seconds(step, setting.device) for _ in range(steps))


def reading(setting: Setting, data: CaptionImageDataset, folder: Path, batch_views: int) -> float:
    """Views per second of the input alone: read and decoded by the workers, augmented on the device."""
    batches = run(setting, data, folder, batch_views).remaining_batches()
    for _ in range(WARM_UP):
        next(batches)

    def several() -> None:
        for _ in range(STEPS // 2):
            next(batches)

    return STEPS // 2 * batch_views / seconds(several, setting.device)


class Files(Dataset[Tensor]):
    """Images as the released code reads them: one at a time, augmented on the CPU."""

    def __init__(self, encoded: list[bytes]) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> Tensor:
        image = Image.open(io.BytesIO(self.encoded[index % len(self.encoded)])).convert("RGB")
        view: Tensor = RELEASED(image)
        return view


def supcon(features: Tensor, labels: Tensor) -> Tensor:
    """The released loss: matrices of all rows by all rows."""
    z = F.normalize(features, dim=1)
    others = 1 - torch.eye(len(z), device=z.device)
    positive = (labels[:, None] == labels).float() * others
    logits = z @ z.T / 0.1 - (1 - others) * 1e9
    logits = logits - logits.max(1, keepdim=True).values.detach()
    target = positive / positive.sum(1, keepdim=True).clamp(min=1)
    return -(target * F.log_softmax(logits, dim=1)).sum(1).mean()


def released(setting: Setting, encoded: list[bytes], batch_views: int) -> tuple[float, float]:
    """Views per second of the released recipe: with its own input, and with views that are there already."""
    model = loop.build_model(experiment(setting, batch_views), 0).to(setting.device).train()
    for block in model.vit.blocks:
        block.attn.fused_attn = False
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, betas=(0.9, 0.98), weight_decay=0.1)
    scaler = torch.amp.GradScaler(enabled=setting.device.type == "cuda")
    labels = (torch.arange(batch_views) // VIEWS).to(setting.device)
    loader = DataLoader(Files(encoded), batch_views, num_workers=setting.workers, pin_memory=True, drop_last=True)

    def step(views: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(setting.device.type, torch.float16, enabled=setting.device.type == "cuda"):
            features = model.head(model.vit(views.to(setting.device, non_blocking=True)), VIEWS)
        scaler.scale(supcon(features, labels)).backward()
        scaler.step(optimizer)
        scaler.update()

    batches: Iterator[Tensor] = iter(loader)
    there = next(batches).to(setting.device)
    for _ in range(WARM_UP):
        step(there)
    alone = statistics.median(seconds(lambda: step(there), setting.device) for _ in range(STEPS))
    step(next(batches))
    whole = statistics.median(seconds(lambda: step(next(batches)), setting.device) for _ in range(STEPS // 2))
    return batch_views / whole, batch_views / alone


def losses(setting: Setting, rows: int) -> tuple[str, str]:
    """Milliseconds and peak MB of ours and of the released loss, forward and backward."""
    features = torch.randn(rows, 256, device=setting.device, requires_grad=True)
    labels = torch.arange(rows, device=setting.device) // VIEWS
    shown = []
    for loss in (functools.partial(multi_positive, temperature=0.1), supcon):

        def both(loss: Callable[..., Tensor] = loss) -> None:
            loss(features, labels).backward()

        both()
        if setting.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        best = statistics.median(seconds(both, setting.device) for _ in range(STEPS))
        memory = (torch.cuda.max_memory_allocated() - before) / 2**20 if setting.device.type == "cuda" else 0
        shown.append(f"{best * 1e3:.1f} ms, {memory:,.0f} MB")
    return shown[0], shown[1]


def measured(setting: Setting, folder: Path) -> list[str]:
    """The lines of the table."""
    encoded = [generate.encode(image, provenance.TRAINED) for image in photographs(64)]
    data = built(folder / "data", encoded)
    loss, cosine = gap(setting, data, folder / "gap")
    assert loss < 0.02 and cosine < 0.02, f"loss differs from float32 by {loss:.1%}, features by {cosine:.3f}"
    method = experiment(setting, VIEWS).settings
    flops, matrix = (
        cost.cost_per_view(method, setting.encoder).flops / 1e9,
        peak(setting.device, torch.bfloat16, setting.side),
    )
    views = setting.batch_views
    own = ours(setting, data, folder / "ours", views)
    sliced = ours(setting, data, folder / "sliced", setting.large, views)
    memory = torch.cuda.max_memory_allocated() / 2**30 if setting.device.type == "cuda" else 0
    read = reading(setting, data, folder / "reading", views)
    torch._dynamo.reset()
    other, alone = released(setting, encoded, views)
    mine, theirs = losses(setting, 8192 if setting.side > 1000 else 512)

    def share(rate: float) -> str:
        return f"{rate * flops / matrix / 1e3:.1%}"

    return [
        f"A view is {flops:.1f} GFLOP, forward and backward; a matrix product reaches {matrix:.0f} TFLOP/s here. Loss "
        f"and features differ from float32 on the CPU by {loss:.2%} and {cosine:.4f}. {setting.workers} workers.",
        "",
        "| what | views/s | share of the matrix peak | ratio |",
        "|:--|--:|--:|--:|",
        f"| our loop, {views} views a step (goals 50 %, 2x) | {own:,.0f} | {share(own)} | {own / other:.2f}x |",
        f"| the released recipe | {other:,.0f} | {share(other)} | |",
        f"| the released recipe without its input | {alone:,.0f} | {share(alone)} | |",
        f"| our input alone | {read:,.0f} | | {read / own:.2f}x of what the step eats |",
        f"| {setting.large} views a step in slices of {views}, {memory:.0f} GB | {sliced:,.0f} | {share(sliced)} | |",
        f"| `multi_positive`, {mine}; the released loss, {theirs} | | | |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rehearse", action="store_true")
    rehearse = parser.parse_args().rehearse
    if not (rehearse or torch.cuda.is_available()):
        print("no GPU is visible: nothing was measured; `--rehearse` runs the script with a tiny encoder")
        return
    gpu = torch.cuda.is_available()
    workers = min(16, os.cpu_count() or 1)
    setting = Setting(torch.device("cuda", 0), ViTConfig(), 768, 8_256, 8192, workers)
    if not gpu:
        tiny = ViTConfig(patch=56, width=32, depth=1, heads=2)
        setting = replace(
            setting, device=torch.device("cpu"), encoder=tiny, batch_views=24, large=96, side=256, workers=0
        )
    with tempfile.TemporaryDirectory() as folder:
        lines = measured(setting, Path(folder))
    name = torch.cuda.get_device_name() if gpu else "CPU, rehearsed"
    text = "\n".join(
        [f"# Training StableRep, ViT-B/16: {name}", "", f"{datetime.date.today()}, torch {torch.__version__}.", *lines]
    )
    print(text)
    if gpu:
        path = Path("results/speed") / f"gpu-training-{name.lower().replace(' ', '-')}.md"
        write_bytes(path, f"{text}\n".encode())


if __name__ == "__main__":
    main()
