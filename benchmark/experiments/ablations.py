"""The ablations of the StableRep paper (arXiv 2306.00984, Tables 5 and 6, Figure 3), at every size.

`images` (Table 5a): l images for each of T / l captions, so that every row has the same number T of images (2.7 M at
full size); l = 1 is SimCLR. How many of them a batch takes is not published: here up to six, StableRep's default.
`positives` (Table 5b): m of ten images of a caption, in a batch of always as many views.
`guidance`, `encoder`, `epochs` (Table 6): guidance of the images; ViT-B or ViT-L; 35, 70 or 105 epochs.
`real-<corpus>` (Figure 3): five methods on real and on synthetic images, one per caption, at the guidance that the
paper takes for them. Its hyper-parameters for BYOL, MoCo v3 and DINO are not published: here each method's own paper's.

CC3M but for `encoder` and `epochs`, which are of CC12M, and Figure 3, which is of both; neither the down-sampling
augmentation nor, in the paper, batch norm before the classifier. Batches are of 7,680 views at full size (the paper:
8,192), which divide by 2, 4, 6, 8 and 10 on up to 64 processes.
"""

from collections.abc import Iterator
from dataclasses import replace

from baselines import simclr, stablerep
from benchmark import plugins
from benchmark.experiments._scales import Scale
from benchmark.interfaces import Experiment, Method

IMAGES = (1, 2, 4, 8, 10)
POSITIVES = (2, 4, 6, 8, 10)
GUIDANCE = ("small", "large", "mixed")
REAL = {"simclr": "w8", "mae": "w6", "byol": "w8", "mocov3": "w8", "dino": "w8"}
"""Method -> guidance of its synthetic images; the best for the first two, 8 for the others without a search."""


def _experiments(size: Scale) -> Iterator[Experiment]:
    yield from _images(size)
    yield from _of_stablerep(size)
    for corpus in size.corpora("cc3m", "cc12m"):
        schedule = size.schedule(corpus, even=True)
        for name, guidance in REAL.items():
            method: Method = plugins.load("baselines", name, "method").METHOD
            row = f"ablations-{size.name}-real-{corpus}/{name}"
            yield size.experiment(f"{row}-real", method, size.real(corpus), schedule)
            synthetic = size.dataset(corpus, images=1, guidance=guidance)
            yield size.experiment(f"{row}-syn", method, synthetic, schedule)


def _images(size: Scale) -> Iterator[Experiment]:
    schedule = size.schedule("cc3m", even=True)
    for images in IMAGES:
        method = simclr.METHOD if images == 1 else _taking(min(images, stablerep.METHOD.sampling.images))
        name = f"ablations-{size.name}-images/{'simclr' if images == 1 else 'stablerep'}-l{images}"
        data = size.dataset("cc3m", captions=size.images // images, images=images)
        yield size.experiment(name, method, data, schedule)


def _of_stablerep(size: Scale) -> Iterator[Experiment]:
    def named(row: str) -> str:
        return f"ablations-{size.name}-{row}"

    schedule = size.schedule("cc3m", even=True)
    for positives in POSITIVES:
        name = named(f"positives/stablerep-m{positives}")
        yield size.experiment(name, _taking(positives), size.dataset("cc3m"), schedule)
    for guidance in GUIDANCE:
        data = size.dataset("cc3m", guidance=guidance)
        yield size.experiment(named(f"guidance/stablerep-{guidance}"), stablerep.METHOD, data, schedule)
    data, schedule = size.dataset("cc12m"), size.schedule("cc12m", even=True)
    for word, encoder in (("base", size.encoder), ("large", size.large_encoder)):
        yield size.experiment(named(f"encoder/stablerep-{word}"), stablerep.METHOD, data, schedule, encoder)
    for times in (1, 2, 3):
        longer = size.schedule("cc12m", times, even=True)
        yield size.experiment(named(f"epochs/stablerep-{times}x"), stablerep.METHOD, data, longer)


def _taking(images: int) -> Method:
    """StableRep with another number m of images of a caption."""
    return replace(stablerep.METHOD, sampling=replace(stablerep.METHOD.sampling, images=images))


EXPERIMENTS = _experiments
