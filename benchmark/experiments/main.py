"""The main comparison of the StableRep paper (arXiv 2306.00984, Tables 1 to 3), at every size.

SimCLR and CLIP on real and on synthetic images and StableRep on synthetic ones, on CC12M and on RedCaps, for 35, 70 and
105 epochs: `1x`, `2x`, `3x`, since a smaller size has other epochs. Real or synthetic is a choice of dataset.

Synthetic images have the guidance that the paper found best for the method: SimCLR 8, CLIP 2, each with one image per
caption; StableRep 2 and 3, ten images. StableRep takes the down-sampling augmentation of these tables. Departures:
every method sees as many views as StableRep does in the released README's epochs (7 % more than 35 epochs of two views
of CC12M's 10.0 M pairs), in batches of 8,256 views; SimCLR's batch and CLIP's settings are not published.
"""

from collections.abc import Iterator
from dataclasses import replace

from baselines import clip, simclr, stablerep
from benchmark.experiments._scales import Scale
from benchmark.interfaces import Experiment

SCHEDULES = (1, 2, 3)
DOWNSAMPLE = 0.05
"""Share of views; the released README."""


def _experiments(size: Scale) -> Iterator[Experiment]:
    sampling = stablerep.METHOD.sampling
    augmentation = replace(sampling.augmentation, downsample=DOWNSAMPLE)
    downsampled = replace(stablerep.METHOD, sampling=replace(sampling, augmentation=augmentation))
    for corpus in size.corpora("cc12m", "redcaps"):
        real = size.real(corpus)
        rows = (
            ("simclr-real", simclr.METHOD, real),
            ("simclr-syn", simclr.METHOD, size.dataset(corpus, images=1, guidance="w8")),
            ("clip-real", clip.METHOD, real),
            ("clip-syn", clip.METHOD, size.dataset(corpus, images=1, guidance="w2")),
            ("stablerep-syn", downsampled, size.dataset(corpus)),
        )
        for times in SCHEDULES:
            for row, method, data in rows:
                name = f"main-{size.name}-{corpus}-{times}x/{row}"
                yield size.experiment(name, method, data, size.schedule(corpus, times))


EXPERIMENTS = _experiments
