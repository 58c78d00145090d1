"""Train the examiner of the scenes on rendered images, and measure it on others.

    python -m datasets_scripts.scenes.train_examiner [--out FOLDER]

One command from nothing to the shipped weights, `examiner.safetensors`, and to `examiner.json` and `examiner.md`: the
log and the accuracy on held-out rendered images. Half of the captions have one object, half have two. Every image is
rendered once and seen once. Half of the images are blurred and compressed, because the images of a diffusion model are
smoother than rendered ones; the accuracy on smoothed copies is reported as well.

The seeds of the images are a hash stream of their own: no image of an evaluation set or of a dataset is among them.
The metadata of the weights name the renderer and the stream.

Shapes: as in `examiner`.
"""

import argparse
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from benchmark.evaluations.scoring import clusters
from benchmark.files import atomic_replace, write_bytes, write_json
from benchmark.hub import cards
from benchmark.images import decode_image
from datasets_scripts.recipe import seed_of
from datasets_scripts.scenes import grammar, renderer
from datasets_scripts.scenes.examiner import WEIGHTS, Examiner, Factors, as_input, load, read, truth
from datasets_scripts.scenes.grammar import SIZE
from datasets_scripts.scenes.schedule import warmup_cosine

STREAM = "examiner 0"
"""Name of the hash stream of the images."""
RESULTS = Path("results/scenes")
STEPS = 1_500
BATCH = 96
LEARNING_RATE = 4e-3
WARMUP = 100
WEIGHT_DECAY = 0.02
LABEL_SMOOTHING = 0.02
MEASURES_WEIGHT = 10.0
"""Weight of the mean squared error of the measures, in the units of `Examiner.forward`."""
LOG_STEPS = 50
TEST_BATCHES = 64
"""Batches of held-out images: 6,144 images."""

Batch = tuple[np.ndarray, Factors]


def image_seed(split: str, number: int) -> int:
    """Return the 64-bit renderer seed of image `number` of the split "train" or "test"."""
    return seed_of(STREAM, split, number)


def scene(split: str, number: int) -> grammar.Scene:
    """Return the scene of an image, uniform over those with two objects or, if the number is odd, with one."""
    rng = np.random.Generator(np.random.Philox(key=[image_seed(split, number), 1]))
    return grammar.sample(rng, pair=number % 2 == 0)


def smooth(image: np.ndarray, seed: int) -> np.ndarray:
    """Return a blurred copy of an image, uint8 (H, W, 3), that went through JPEG."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 2]))
    blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
    file = io.BytesIO()
    blurred.save(file, "JPEG", quality=int(rng.integers(80, 96)))
    return decode_image(file.getvalue())


def rendered_batch(split: str, batch: int) -> Batch:
    """Return rendered images, uint8 (BATCH, H, W, 3), and the truth about them."""
    numbers = range(batch * BATCH, (batch + 1) * BATCH)
    scenes = [scene(split, number) for number in numbers]
    renderings = [renderer.render(each.caption, image_seed(split, number)) for each, number in zip(scenes, numbers)]
    return np.stack([each.image for each in renderings]), truth(scenes, renderings)


class TrainingBatches(torch.utils.data.Dataset[Batch]):
    """Batches of rendered training images; every other two images are smoothed."""

    def __getitem__(self, batch: int) -> Batch:
        images, factors = rendered_batch("train", batch)
        for place in range(BATCH):
            if place // 2 % 2:
                images[place] = smooth(images[place], image_seed("train", batch * BATCH + place))
        return images, factors


def _batches(steps: int) -> Iterator[Batch]:
    """Yield the training batches, rendered in another process."""
    batches = TrainingBatches()
    yield from torch.utils.data.DataLoader(
        batches, batch_size=None, sampler=range(steps), num_workers=1, prefetch_factor=4, collate_fn=lambda batch: batch
    )


def losses(found: dict[str, Tensor], factors: Factors) -> dict[str, Tensor]:
    """Return the loss of each factor; what an image does not show does not count.

    Args:
        found: Output of the examiner.
        factors: The truth.
    """
    classes = {"layout": factors.layout, "background": factors.background}
    classes |= {name: factors.attributes[..., number] for number, name in enumerate(grammar.ATTRIBUTES)}
    result = {
        name: functional.cross_entropy(
            found[name].flatten(0, -2),
            torch.from_numpy(class_N).flatten(),
            ignore_index=-1,
            label_smoothing=LABEL_SMOOTHING,
        )
        for name, class_N in classes.items()
    }
    hue = np.radians(factors.hue)
    parts = (
        2 * factors.position / SIZE - 1,
        np.stack((factors.rotation / renderer.ROTATION, np.cos(hue), np.sin(hue)), 2),
    )
    error_N25 = found["measures"] - torch.from_numpy(np.concatenate(parts, 2)).float()
    result["measures"] = MEASURES_WEIGHT * error_N25[~error_N25.isnan()].square().mean()
    return result


def train(steps: int, report: Callable[[dict[str, float]], None]) -> Examiner:
    """Return an examiner trained for `steps` steps.

    Args:
        steps: Number of batches; the learning rate falls to zero over them.
        report: Called now and then with step, seconds and losses.
    """
    torch.manual_seed(0)
    examiner = Examiner()
    decayed = [parameter for parameter in examiner.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in examiner.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, steps, WARMUP))
    started = time.monotonic()
    for step, (images, factors) in enumerate(_batches(steps)):
        with torch.autocast("cpu", torch.bfloat16):
            output = examiner(as_input(images))
        found = losses({name: values.float() for name, values in output.items()}, factors)
        optimizer.zero_grad()
        torch.stack(list(found.values())).sum().backward()
        optimizer.step()
        schedule.step()
        if step % LOG_STEPS == 0 or step == steps - 1:
            values = {name: round(value.item(), 4) for name, value in found.items()}
            report({"step": step, "seconds": round(time.monotonic() - started, 1), **values})
    return examiner.eval()


def declaration() -> dict[str, str]:
    """Return what the examiner is trained on: the metadata of its weights."""
    return {"images": f"rendered, world {grammar.VERSION}", "seeds": f"BLAKE2b stream {STREAM!r}"}


def save(examiner: Examiner, path: Path) -> None:
    """Write the weights of an examiner in half precision, with `declaration` as metadata."""
    weights = {name: each.half() if each.is_floating_point() else each for name, each in examiner.state_dict().items()}
    with atomic_replace(path) as temporary:
        save_file(weights, temporary, declaration())


def accuracy(found: Factors, true: Factors) -> dict[str, clusters.Score]:
    """Return the accuracy of each factor, with images as clusters. What is true of an object is asked of its slot."""
    number_N = np.arange(len(true.layout))
    shown_N2 = true.attributes[..., 0] >= 0
    unit_M = np.repeat(number_N, shown_N2.sum(1))
    correct_N2F = found.attributes == true.attributes
    result = {name: clusters.share(correct_N2F[..., f][shown_N2], unit_M) for f, name in enumerate(grammar.ATTRIBUTES)}
    result["layout"] = clusters.share(found.layout == true.layout, number_N)
    result["background"] = clusters.share(found.background == true.background, number_N)
    return result


def errors(found: Factors, true: Factors) -> dict[str, float]:
    """Return the median absolute error of position (pixels), rotation and hue (degrees)."""
    distance = np.hypot(*np.moveaxis(found.position - true.position, 2, 0))
    rotation, hue = found.rotation - true.rotation, (found.hue - true.hue + 180) % 360 - 180
    differences = {"position, pixels": distance, "rotation, degrees": rotation, "hue, degrees": hue}
    return {name: round(float(np.nanmedian(np.abs(each))), 3) for name, each in differences.items()}


def measure(examiner: Examiner) -> dict[str, Any]:
    """Return accuracy and errors on held-out rendered images, and on smoothed copies of them."""
    batches = [rendered_batch("test", batch) for batch in range(TEST_BATCHES)]
    images = np.concatenate([each for each, _ in batches])
    true = Factors.concatenate([factors for _, factors in batches])
    smoothed = np.stack([smooth(image, image_seed("test", number)) for number, image in enumerate(images)])
    result: dict[str, Any] = {"images": len(images)}
    for kind, shown in {"rendered": images, "smoothed": smoothed}.items():
        found = read(shown, examiner)
        scores = {name: vars(score) for name, score in accuracy(found, true).items()}
        result[kind] = {"accuracy": scores, "median error": errors(found, true)}
    return result


def table(measured: dict[str, Any]) -> str:
    """Return the measurements as Markdown."""
    kinds = ("rendered", "smoothed")
    rows = [("factor", *(f"{kind}, %" for kind in kinds))]
    for name in measured[kinds[0]]["accuracy"]:
        scores = [measured[kind]["accuracy"][name] for kind in kinds]
        rows.append(
            (name, *("{:.2f} [{:.2f}, {:.2f}]".format(*(100 * s[k] for k in ("value", "low", "high"))) for s in scores))
        )
    rows.append(("median error", "", ""))
    for name in measured[kinds[0]]["median error"]:
        rows.append((name, *(f"{measured[kind]['median error'][name]:g}" for kind in kinds)))
    return f"""# The examiner on {measured["images"]:,} held-out rendered images

Accuracy with 95 % interval; the second column is on copies that were blurred and compressed. Generated by
`python -m datasets_scripts.scenes.train_examiner`.

{cards.table(*rows)}
"""


def main() -> None:
    """Train, measure, and write weights, log and table."""
    parser = argparse.ArgumentParser(description="Train the examiner of the scenes.")
    parser.add_argument("--out", type=Path, help="Folder for weights, log and table; default: their places here.")
    out = parser.parse_args().out
    log: list[dict[str, float]] = []

    def report(line: dict[str, float]) -> None:
        log.append(line)
        print(" ".join(f"{name} {value:g}" for name, value in line.items()), flush=True)

    weights, results = (out / WEIGHTS.name, out) if out else (WEIGHTS, RESULTS)
    save(train(STEPS, report), weights)
    measured = measure(load(weights))
    write_json(results / "examiner.json", {**measured, "trained on": declaration(), "log": log})
    write_bytes(results / "examiner.md", table(measured).encode())


if __name__ == "__main__":
    main()
