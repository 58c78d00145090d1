"""The main comparison of the StableRep paper (arXiv 2306.00984, Tables 1 to 3), at every size.

SimCLR and CLIP on real and on synthetic images, and StableRep on synthetic images, on CC12M and RedCaps, for 35, 70 and
105 epochs. The schedules are named `1x`, `2x`, `3x`, since smaller sizes have other epochs. Real or synthetic is a
choice of dataset.

Synthetic images have the guidance that the paper found best for the method: SimCLR 8 and CLIP 2, with one image per
caption; StableRep 2 and 3, with ten images. StableRep uses the down-sampling augmentation of these tables.

Departures from the paper: every method sees as many views as StableRep in the epochs of the released README (7 % more
than 35 epochs of two views of CC12M's 10.0 M pairs), in batches of 8,256 views. SimCLR's batch size and CLIP's settings
are not published.
"""

from collections.abc import Iterator
from dataclasses import replace

from baselines import clip, simclr, stablerep
from benchmark.experiments._scales import Scale
from benchmark.interfaces import Experiment

SCHEDULES = (1, 2, 3)
DOWNSAMPLE = 0.05
"""Fraction of views that are down-sampled, from the released README."""


def _experiments(scale: Scale) -> Iterator[Experiment]:
    sampling = stablerep.METHOD.sampling
    augmentation = replace(sampling.augmentation, downsample=DOWNSAMPLE)
    downsampled = replace(stablerep.METHOD, sampling=replace(sampling, augmentation=augmentation))
    for corpus in scale.corpora("cc12m", "redcaps"):
        real = scale.real(corpus)
        rows = (
            ("simclr-real", simclr.METHOD, real),
            ("simclr-syn", simclr.METHOD, scale.dataset(corpus, images=1, guidance="w8")),
            ("clip-real", clip.METHOD, real),
            ("clip-syn", clip.METHOD, scale.dataset(corpus, images=1, guidance="w2")),
            ("stablerep-syn", downsampled, scale.dataset(corpus)),
        )
        for times in SCHEDULES:
            for row, method, data in rows:
                name = f"main-{scale.name}-{corpus}-{times}x/{row}"
                yield scale.experiment(name, method, data, scale.schedule(corpus, times))


EXPERIMENTS = _experiments
