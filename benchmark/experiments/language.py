"""The experiments of the StableRep paper that train on captions (arXiv 2306.00984, Figures 5 and 6), at every size.

`captions`: StableRep+ on synthetic and CLIP on real images of LAION, for different numbers of captions, with two images
per caption at guidance 2, both in the batch. The paper's schedule is not published; here it is that of CC12M for every
number and both methods (equal views), so that only the captions differ.

`guidance`: CLIP on CC12M with one synthetic image per caption, for different guidance scales, and on real images, at as
many views as the other methods of Table 1. `guidance-published`: the same at CLIP's published schedule, 35 epochs of
one view, which are half of the views (see `main`).

Departures from the paper: captions are de-duplicated, also for CLIP (see `main`).
"""

from collections.abc import Iterator
from dataclasses import replace

from baselines import clip, stablerep_plus
from benchmark.experiments._scales import Scale
from benchmark.interfaces import Experiment
from benchmark.schema import count_word

GUIDANCE = (1, 2, 3, 4, 6, 8, 10)


def _experiments(scale: Scale) -> Iterator[Experiment]:
    sampling = stablerep_plus.METHOD.sampling
    pairs = replace(stablerep_plus.METHOD, sampling=replace(sampling, images=2))
    comparison, schedule = f"language-{scale.name}-captions", scale.schedule("laion-50m")
    for count in scale.caption_counts:
        word = count_word(count)
        synthetic = scale.dataset("laion-50m", captions=count, images=2, guidance="w2")
        yield scale.experiment(f"{comparison}/stablerep_plus-{word}", pairs, synthetic, schedule)
        yield scale.experiment(f"{comparison}/clip-{word}", clip.METHOD, scale.real("laion-50m", count), schedule)

    data = {"real": scale.real("cc12m")}
    data |= {f"w{value}": scale.dataset("cc12m", images=1, guidance=f"w{value}") for value in GUIDANCE}
    comparison = f"language-{scale.name}-guidance"
    schedules = {comparison: scale.schedule("cc12m"), f"{comparison}-published": scale.clip_schedule("cc12m")}
    for comparison, schedule in schedules.items():
        for row, images in data.items():
            yield scale.experiment(f"{comparison}/clip-{row}", clip.METHOD, images, schedule)


EXPERIMENTS = _experiments
