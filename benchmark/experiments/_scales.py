"""The sizes at which experiments are declared: the same comparisons on a laptop, one GPU, or a cluster.

A size determines the data, the encoder, the batch size and the number of views. Within a comparison, every trained
method sees the same number of views, which is the meaning of equal compute here. Equal views do not equalize the cost
of a view (text towers, momentum encoders, masked patches), nor how often a caption is repeated. Published schedules
with other views are in comparisons of their own (`Scale.clip_schedule`). Experiments are named
`<file>-<size>-<comparison>/<row>`; the part before the slash identifies a comparison and becomes one folder of tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmark import mirror, schema
from benchmark.errors import UserError
from benchmark.interfaces import Experiment, Method, Schedule, ViTConfig
from datasets_scripts import recipe
from datasets_scripts.recipe import Recipe

UNKNOWN_REVISION = "its-captions-are-not-prepared"
"""Placeholder if captions are not on this machine: a dataset's revision is the hash of its recipe and captions."""


def tiny(method: Method) -> Method:
    """Return a method's settings for the toy world: its `tiny()`, with other strong augmentations.

    Strong augmentations (those with color jitter) get a larger minimum crop scale, since an object must stay in the
    image, and no flip, since captions mention left and right. Half of their views are gray, since colors alone
    distinguish most captions and little else would be learned. Other augmentations are unchanged.
    """
    settings = method.tiny()
    sampling = settings.sampling
    first, *further = (
        replace(augmentation, scale=(0.6, 1.0), flip=0.0, grayscale=0.5) if augmentation.jitter > 0 else augmentation
        for augmentation in (sampling.augmentation, *sampling.further)
    )
    return replace(settings, sampling=replace(sampling, augmentation=first, further=tuple(further)))


@dataclass(frozen=True)
class Scale:
    """Data, encoder, batch and schedule of the experiments of one size."""

    name: str
    images: int
    """Number of images of a dataset with one image per caption; the image budget in comparisons that fix it."""
    captions: int | None
    """Number of captions of a dataset. None: all captions of its recipe."""
    encoder: ViTConfig
    large_encoder: ViTConfig
    """Larger encoder of the ablation of encoder size."""
    batch_views: int
    divisible_batch_views: int
    """Batch divisible by 1 to 6, 8 and 10 views per caption, on the number of processes intended for the size."""
    views: int | Mapping[str, tuple[int, int, int]]
    """Views of the shortest of three schedules (the others are multiples), or of all three schedules by corpus."""
    caption_counts: tuple[int, ...]
    """Numbers of captions in comparisons that vary them."""
    toy_world: str = ""
    """Recipe that replaces every corpus. Empty: none."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of every experiment."""
    version: int = 1
    """Version of every experiment."""

    def corpora(self, *names: str) -> tuple[str, ...]:
        """Return the corpora of an experiment, or one if the toy world replaces them."""
        return ("scenes",) if self.toy_world else names

    def dataset(
        self, corpus: str, captions: int | None = None, images: int | None = None, guidance: str = ""
    ) -> Recipe:
        """Return the recipe of a corpus's synthetic images.

        By default, the number of captions is that of this size; images per caption and guidance are the recipe's.
        """
        return self._recipe(self.toy_world or corpus, captions, f"l{images}" if images else "", guidance)

    def real(self, corpus: str, captions: int | None = None, images: int | None = None) -> Recipe:
        """Return the recipe of a corpus's real images: one per caption, or `images` in the toy world."""
        return self._recipe(f"{self.toy_world or corpus}-real", captions, f"l{images}" if images else "")

    def _recipe(self, base: str, captions: int | None, *suffixes: str) -> Recipe:
        count = captions or self.captions
        return _find_recipe("-".join(filter(None, (base, schema.count_word(count) if count else "", *suffixes))))

    def schedule(self, corpus: str, times: int = 1, divisible: bool = False) -> Schedule:
        """Return schedule number `times` of three (1 to 3), with `divisible_batch_views` if `divisible`."""
        views = self.views * times if isinstance(self.views, int) else self.views[corpus][times - 1]
        return Schedule(views, self.divisible_batch_views if divisible else self.batch_views)

    def clip_schedule(self, corpus: str, times: int = 1) -> Schedule:
        """Return CLIP's published schedule number `times`: 35, 70 or 105 epochs of one view of every pair.

        At sizes with other epochs than the paper's, it is half of the views of `schedule`, since the other methods see
        at least two views in an epoch.
        """
        if isinstance(self.views, int):
            return Schedule(self.views * times // 2, self.batch_views)
        return Schedule(EPOCHS * times * PAIRS[corpus], self.batch_views)

    def experiment(
        self,
        name: str,
        method: Method,
        data: Recipe,
        schedule: Schedule,
        encoder: ViTConfig | None = None,
    ) -> Experiment:
        """Declare one experiment.

        Args:
            name: `<file>-<size>-<comparison>/<method>-<row>`.
            method: the method with its paper's settings, or with changed ones.
            data: recipe of its dataset.
            schedule: views and batch.
            encoder: the encoder. None: that of this size.
        """
        return Experiment(
            name=name,
            version=self.version,
            method=type(method).__module__.rpartition(".")[2],
            settings=tiny(method) if self.toy_world else method,
            dataset=data.repo,
            revision=_revision(data),
            schedule=schedule,
            encoder=encoder or self.encoder,
            seeds=self.seeds,
        )


def _find_recipe(name: str) -> Recipe:
    """Return the recipe with the first dataset root that has its prepared captions, else with the first root."""
    candidates = [recipe.find(name, root) for root in mirror.roots()]
    return next((candidate for candidate in candidates if _has_revision(candidate)), candidates[0])


def _has_revision(data: Recipe) -> bool:
    try:
        return bool(data.revision)
    except UserError:
        return False


def _revision(data: Recipe) -> str:
    """Return the revision of a recipe or, if its captions are not prepared, of its local dataset."""
    if _has_revision(data):
        return data.revision
    try:
        manifest = schema.read_manifest(mirror.dataset_folder(data.repo, UNKNOWN_REVISION))
    except UserError:
        return UNKNOWN_REVISION
    declared = [data.name, data.version, data.images_per_caption, list(data.guidance), data.seed]
    stored = [manifest.recipe.get(key) for key in ("name", "version", "images_per_caption", "guidance", "seed")]
    return manifest.revision if stored == declared else UNKNOWN_REVISION


_BASE = ViTConfig()
_LARGE = ViTConfig(width=1024, depth=24, heads=16)
_SMALL = ViTConfig(width=384, heads=6)


def _epochs(captions: int, *counts: int) -> tuple[int, int, int]:
    """Return the views of three StableRep schedules, given in epochs of six images per caption."""
    short, middle, long = (captions * 6 * count for count in counts)
    return short, middle, long


_CC12M = _epochs(8_300_000, 15, 31, 46)
EPOCHS = 35
"""Epochs of the paper's shortest schedule."""
PAIRS = {"cc12m": 10_000_000, "redcaps": 11_700_000}
"""Corpus -> pairs of image and caption in the paper, before de-duplication."""

_TOY_WORLD = Scale(
    name="smoke",
    images=2_000,
    captions=1_000,
    encoder=ViTConfig(image_size=64, patch=16, width=128, depth=4, heads=4),
    large_encoder=ViTConfig(image_size=64, patch=16, width=192, depth=6, heads=6),
    batch_views=120,
    divisible_batch_views=120,
    views=40_800,
    caption_counts=(200, 500, 1_000),
    toy_world="toy",
    seeds=(0, 1, 2),
    version=3,
)

SCALES = {
    scale.name: scale
    for scale in (
        _TOY_WORLD,
        replace(
            _TOY_WORLD,
            name="small",
            encoder=replace(_TOY_WORLD.encoder, patch=8),
            large_encoder=replace(_TOY_WORLD.large_encoder, patch=8),
            views=72_000,
        ),
        Scale(
            name="10k",
            images=10_000,
            captions=10_000,
            encoder=replace(_SMALL, image_size=112, patch=14),
            large_encoder=replace(_BASE, image_size=112, patch=14),
            batch_views=480,
            divisible_batch_views=480,
            views=2_400_000,
            caption_counts=(1_000, 3_000, 10_000),
        ),
        Scale(
            name="100k",
            images=100_000,
            captions=100_000,
            encoder=_SMALL,
            large_encoder=_BASE,
            batch_views=1_440,
            divisible_batch_views=1_440,
            views=7_200_000,
            caption_counts=(10_000, 30_000, 100_000),
        ),
        Scale(
            name="1m",
            images=1_000_000,
            captions=1_000_000,
            encoder=_BASE,
            large_encoder=_LARGE,
            batch_views=3_840,
            divisible_batch_views=3_840,
            views=72_000_000,
            caption_counts=(100_000, 300_000, 1_000_000),
        ),
        Scale(
            name="full",
            images=2_700_000,
            captions=None,
            encoder=_BASE,
            large_encoder=_LARGE,
            batch_views=8_256,  # 32 GPUs x 43 captions x 6, as in the released README
            divisible_batch_views=7_680,  # 64 GPUs x 120
            views={
                # The released README's 15, 31, 46 and 13, 27, 40 epochs over captions: the paper's 35, 70, 105.
                "cc12m": _CC12M,
                "redcaps": _epochs(10_500_000, 13, 27, 40),
                # Not published: for CC3M, as many epochs of two views as the paper's 35; for LAION, those of CC12M.
                "cc3m": (70 * 2_700_000, 140 * 2_700_000, 210 * 2_700_000),
                "laion-50m": _CC12M,
            },
            caption_counts=(1_000_000, 3_000_000, 10_000_000, 20_000_000, 50_000_000),
        ),
    )
}
"""Scales by name: `smoke` and `small`, which share the datasets of the toy world, and the sizes of other datasets."""
