"""The ablations of the StableRep paper (arXiv 2306.00984, Tables 5 and 6, Figures 2 and 3), at every size.

`images` (Table 5a): l images for each of T / l captions, so that every row has the same total number T of images (2.7 M
at full size); l = 1 is SimCLR. The number of images per caption in a batch is not published; here it is at most six,
StableRep's default.
`positives` (Table 5b): m of ten images per caption, with a constant number of views per batch. m = 1 is SimCLR: two
crops of one image, which is drawn from the ten at every step.
`guidance` (Table 6): guidance of the images, for StableRep and, beyond the paper's table, for SimCLR on the same ten
images per caption, since the paper says that the two want opposite ends.
`encoder`, `epochs` (Table 6): ViT-B or ViT-L; 35, 70 or 105 epochs of CC12M.
`epochs-redcaps` (Table 6): the same epochs on RedCaps. The toy world has one corpus, and so no such comparison.
`guidance-scale` (Figure 2): SimCLR and MAE on one synthetic image per caption, by its guidance scale, and on real
images. The scales are those that the paper tried for SimCLR; those for MAE are not published.
`real-<corpus>` (Figure 3): five methods on real and on synthetic images, one per caption, at the paper's guidance. Its
hyper-parameters for BYOL, MoCo v3 and DINO are not published; here they are those of each method's own paper. In the
toy world, where a caption can have any number of real images, all trained methods are compared. Those that need several
images per caption have ten real or ten synthetic ones.

The dataset is CC3M, except for `encoder` and `epochs` (CC12M) and Figure 3 (both). The down-sampling augmentation is
not used; in the paper, these ablations also omit batch norm before the linear classifier.

Departures from the paper: batches have 7,680 views at full size (paper: 8,192), which is divisible by 2, 4, 6, 8 and 10
on up to 64 processes. Captions are de-duplicated for every method, also for SimCLR and on real images (see `main`). On
CC12M and RedCaps, schedules are those of the released README; that of CC3M is not published.
"""

from collections.abc import Iterator
from dataclasses import replace

from baselines import mae, simclr, stablerep
from benchmark import plugins
from benchmark.experiments._scales import Scale
from benchmark.interfaces import Experiment, Method

IMAGES = (1, 2, 4, 8, 10)
POSITIVES = (2, 4, 6, 8, 10)
GUIDANCE = ("small", "large", "mixed")
GUIDANCE_SCALES = (2, 3, 4, 6, 8, 10, 12)
REAL = {"simclr": "w8", "mae": "w6", "byol": "w8", "mocov3": "w8", "dino": "w8"}
"""Guidance of the synthetic images by method: tuned for the first two, 8 without a search for the others."""
TOY_WORLD = {"clip": "w2", "slip": "w2", "stablerep": "small", "stablerep_plus": "small", "supcon": "small"}
"""The same for the methods that are compared in the toy world only; as in the main comparison, or as for its CLIP."""


def _experiments(scale: Scale) -> Iterator[Experiment]:
    yield from _vary_images(scale)
    yield from _vary_stablerep(scale)
    yield from _vary_guidance_scale(scale)
    yield from _replace_real_images(scale)


def _vary_images(scale: Scale) -> Iterator[Experiment]:
    schedule = scale.schedule("cc3m", divisible=True)
    for images in IMAGES:
        method = (
            simclr.METHOD if images == 1 else _with_images(min(images, stablerep.METHOD.sampling.images_per_caption))
        )
        name = f"ablations-{scale.name}-images/{'simclr' if images == 1 else 'stablerep'}-l{images}"
        data = scale.dataset("cc3m", captions=scale.images // images, images=images)
        yield scale.experiment(name, method, data, schedule)


def _vary_stablerep(scale: Scale) -> Iterator[Experiment]:
    prefix = f"ablations-{scale.name}"
    schedule = scale.schedule("cc3m", divisible=True)
    yield scale.experiment(f"{prefix}-positives/simclr-m1", simclr.METHOD, scale.dataset("cc3m"), schedule)
    for positives in POSITIVES:
        name = f"{prefix}-positives/stablerep-m{positives}"
        yield scale.experiment(name, _with_images(positives), scale.dataset("cc3m"), schedule)
    methods: dict[str, Method] = {"stablerep": stablerep.METHOD, "simclr": simclr.METHOD}
    for name, method in methods.items():
        for guidance in GUIDANCE:
            data = scale.dataset("cc3m", guidance=guidance)
            yield scale.experiment(f"{prefix}-guidance/{name}-{guidance}", method, data, schedule)
    data, schedule = scale.dataset("cc12m"), scale.schedule("cc12m", divisible=True)
    for word, encoder in (("base", scale.encoder), ("large", scale.large_encoder)):
        yield scale.experiment(f"{prefix}-encoder/stablerep-{word}", stablerep.METHOD, data, schedule, encoder)
    for corpus in scale.corpora("cc12m", "redcaps"):
        comparison = f"{prefix}-epochs-redcaps" if corpus == "redcaps" else f"{prefix}-epochs"
        for times in (1, 2, 3):
            longer = scale.schedule(corpus, times, divisible=True)
            name = f"{comparison}/stablerep-{times}x"
            yield scale.experiment(name, stablerep.METHOD, scale.dataset(corpus), longer)


def _vary_guidance_scale(scale: Scale) -> Iterator[Experiment]:
    data = {"real": scale.real("cc3m")}
    data |= {f"w{value}": scale.dataset("cc3m", images=1, guidance=f"w{value}") for value in GUIDANCE_SCALES}
    methods: dict[str, Method] = {"simclr": simclr.METHOD, "mae": mae.METHOD}
    for name, method in methods.items():
        for row, images in data.items():
            experiment = f"ablations-{scale.name}-guidance-scale/{name}-{row}"
            yield scale.experiment(experiment, method, images, scale.schedule("cc3m", divisible=True))


def _replace_real_images(scale: Scale) -> Iterator[Experiment]:
    for corpus in scale.corpora("cc3m", "cc12m"):
        schedule = scale.schedule(corpus, divisible=True)
        for name, guidance in (REAL | TOY_WORLD if scale.toy_world else REAL).items():
            method: Method = plugins.load("baselines", name, "method").METHOD
            images = 1 if method.sampling.images_per_caption == 1 else 10
            row = f"ablations-{scale.name}-real-{corpus}/{name}"
            yield scale.experiment(f"{row}-real", method, scale.real(corpus, images=images), schedule)
            synthetic = scale.dataset(corpus, images=images, guidance=guidance)
            yield scale.experiment(f"{row}-syn", method, synthetic, schedule)


def _with_images(images: int) -> Method:
    """Return StableRep with m images per caption in a batch."""
    return replace(stablerep.METHOD, sampling=replace(stablerep.METHOD.sampling, images=images))


EXPERIMENTS = _experiments
