"""The experiments of the StableRep paper that read captions (arXiv 2306.00984, Figures 5 and 6), at every size.

`captions`: StableRep+ on synthetic and CLIP on real images of LAION, by the number of captions; two images per caption,
both of which are seen. How long the paper trains there is not published: here as long as on CC12M, whatever the number,
so that only the captions differ.

`guidance`: CLIP on CC12M with one synthetic image per caption, by the guidance it was drawn at, and on real images.
"""

from collections.abc import Iterator
from dataclasses import replace

from baselines import clip, stablerep_plus
from benchmark.experiments._scales import Scale
from benchmark.interfaces import Experiment
from benchmark.schema import count_word

GUIDANCE = (1, 2, 3, 4, 6, 8, 10)


def _experiments(size: Scale) -> Iterator[Experiment]:
    sampling = stablerep_plus.METHOD.sampling
    pairs = replace(stablerep_plus.METHOD, sampling=replace(sampling, images=2))
    comparison, schedule = f"language-{size.name}-captions", size.schedule("laion-50m")
    for count in size.caption_counts:
        word = count_word(count)
        synthetic = size.dataset("laion-50m", captions=count, images=2)
        yield size.experiment(f"{comparison}/stablerep_plus-{word}", pairs, synthetic, schedule)
        yield size.experiment(f"{comparison}/clip-{word}", clip.METHOD, size.real("laion-50m", count), schedule)

    comparison, schedule = f"language-{size.name}-guidance", size.schedule("cc12m")
    yield size.experiment(f"{comparison}/clip-real", clip.METHOD, size.real("cc12m"), schedule)
    for value in GUIDANCE:
        data = size.dataset("cc12m", images=1, guidance=f"w{value}")
        yield size.experiment(f"{comparison}/clip-w{value}", clip.METHOD, data, schedule)


EXPERIMENTS = _experiments
