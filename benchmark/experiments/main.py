"""The main comparison of the StableRep paper (arXiv 2306.00984, Tables 1 to 3 and 7), at every size.

SimCLR and CLIP on real and on synthetic images, and StableRep on synthetic images, on CC12M and RedCaps, for 35, 70 and
105 epochs. The schedules are named `1x`, `2x`, `3x`, since smaller sizes have other epochs. At `1x` there are three
more rows: StableRep+ (Table 7), which the paper trained for 35 epochs only, MAE (Figures 2 and 3), and the untrained
encoder, a lower reference. Real or synthetic is a choice of dataset.

There are two comparisons, since methods differ in the views of an epoch. They are separate folders of tables:

- `<corpus>-1x`: equal views. Every method sees as many views as StableRep in the epochs of the released README.
- `<corpus>-1x-published`: CLIP at its published schedule, 35, 70 or 105 epochs of ONE view of a pair, which are 350,
  700 or 1,050 M views of the paper's 10.0 M pairs of CC12M. That is half of the views of the others: equal views are 75
  epochs for CLIP, and the paper's CLIP over-fits from epoch 30. The schedules of SimCLR and StableRep are already the
  published ones: StableRep's exactly, SimCLR's but for 7 % more views than 35 epochs of two views.

Synthetic images have the guidance that the paper found best for the method: SimCLR 8, MAE 6 and CLIP 2, with one image
per caption; StableRep and StableRep+ 2 and 3, with ten images. StableRep uses the down-sampling augmentation of these
tables; StableRep+ does not, as its released checkpoints.

Departures from the paper: captions are de-duplicated for every method, not for StableRep only, so that SimCLR and CLIP
have 17 % (CC12M) or 10 % (RedCaps) fewer pairs and repeat them more often in the same number of views: 350 M views are
42 epochs of 8.3 M pairs, and equal views 90. Images are stored as JPEG of quality 90, not as PNG, and real images are
cut to their center square. Batches have 8,256 views; SimCLR's batch size and CLIP's settings are not published.
"""

from collections.abc import Iterator
from dataclasses import replace

from baselines import clip, mae, simclr, stablerep, stablerep_plus, untrained
from benchmark.experiments._scales import Scale
from benchmark.interfaces import Experiment, Method
from datasets_scripts.recipe import Recipe

SCHEDULES = (1, 2, 3)
DOWNSAMPLE = 0.05
"""Fraction of views that are down-sampled, from the released README."""


def _experiments(scale: Scale) -> Iterator[Experiment]:
    sampling = stablerep.METHOD.sampling
    augmentation = replace(sampling.augmentation, downsample=DOWNSAMPLE)
    downsampled = replace(stablerep.METHOD, sampling=replace(sampling, augmentation=augmentation))
    for corpus in scale.corpora("cc12m", "redcaps"):
        real = scale.real(corpus)
        clips = (
            ("clip-real", clip.METHOD, real),
            ("clip-syn", clip.METHOD, scale.dataset(corpus, images=1, guidance="w2")),
        )
        rows: tuple[tuple[str, Method, Recipe], ...] = (
            ("simclr-real", simclr.METHOD, real),
            ("simclr-syn", simclr.METHOD, scale.dataset(corpus, images=1, guidance="w8")),
            *clips,
            ("stablerep-syn", downsampled, scale.dataset(corpus)),
        )
        more: tuple[tuple[str, Method, Recipe], ...] = (
            ("stablerep_plus-syn", stablerep_plus.METHOD, scale.dataset(corpus)),
            ("mae-real", mae.METHOD, real),
            ("mae-syn", mae.METHOD, scale.dataset(corpus, images=1, guidance="w6")),
            ("untrained", untrained.METHOD, real),
        )
        for times in SCHEDULES:
            comparison = f"main-{scale.name}-{corpus}-{times}x"
            for row, method, data in (*rows, *more) if times == 1 else rows:
                yield scale.experiment(f"{comparison}/{row}", method, data, scale.schedule(corpus, times))
            for row, method, data in clips:
                schedule = scale.clip_schedule(corpus, times)
                yield scale.experiment(f"{comparison}-published/{row}", method, data, schedule)


EXPERIMENTS = _experiments
