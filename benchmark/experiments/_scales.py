"""The sizes at which every experiment is declared: the same comparisons on a laptop, on one GPU, on a cluster.

A size says how much data, which encoder, how large a batch, how many views. Within a comparison every trained method
sees the same number of views, so that the compute is equal. An experiment is called
`<file>-<size>-<comparison>/<row>`; what stands before the slash is one comparison and becomes one folder of tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmark import mirror, schema
from benchmark.errors import UserError
from benchmark.interfaces import Experiment, Method, Schedule, ViTConfig
from datasets_scripts import recipe
from datasets_scripts.recipe import Recipe

VERSION = 1
"""Of every experiment that is declared by size."""
UNKNOWN_REVISION = "its-captions-are-not-prepared"
"""The revision of a dataset whose captions are not on this machine: it is the hash of a recipe and its captions."""


def tiny(method: Method) -> Method:
    """A method as it runs in the embedded world: its `tiny()`, in which strong crops keep the object and its side.

    A larger smallest crop, since an object must stay in the picture, and no flip, since captions speak of left and
    right; augmentations without colour jitter stay as they are.
    """
    settings = method.tiny()
    sampling = settings.sampling
    first, *further = (
        replace(each, scale=(0.6, 1.0), flip=0.0) if each.jitter > 0 else each
        for each in (sampling.augmentation, *sampling.further)
    )
    return replace(settings, sampling=replace(sampling, augmentation=first, further=tuple(further)))


@dataclass(frozen=True)
class Scale:
    """How large the experiments of one size are."""

    name: str
    images: int
    """Of a dataset with one image per caption: the budget of images where that is held fixed."""
    captions: int | None
    """Of a dataset; None: all that its recipe has."""
    encoder: ViTConfig
    large_encoder: ViTConfig
    """For the ablation of the encoder's size."""
    batch_views: int
    divisible_batch_views: int
    """That methods of 1 to 6, 8 or 10 views per caption fill, on as many processes as the size is meant for."""
    views: int | Mapping[str, tuple[int, int, int]]
    """Of the shortest of three schedules, which the others multiply; or of all three, by corpus, as in the paper."""
    caption_counts: tuple[int, ...]
    """Captions, where their number is what is studied."""
    toy_world: str = ""
    """The recipe that stands in for every corpus."""

    def corpora(self, *names: str) -> tuple[str, ...]:
        """The corpora that an experiment is about; one where a world stands in for them."""
        return ("scenes",) if self.toy_world else names

    def dataset(
        self, corpus: str, captions: int | None = None, images: int | None = None, guidance: str = ""
    ) -> Recipe:
        """Synthetic images of a corpus; captions are else as many as the size says, the others as the recipe says."""
        return self._recipe(self.toy_world or corpus, captions, f"l{images}" if images else "", guidance)

    def real(self, corpus: str, captions: int | None = None) -> Recipe:
        """Real images of a corpus, one for each caption."""
        return self._recipe(f"{self.toy_world or corpus}-real", captions)

    def _recipe(self, base: str, captions: int | None, *words: str) -> Recipe:
        count = captions or self.captions
        return _below_a_root("-".join(filter(None, (base, schema.count_word(count) if count else "", *words))))

    def schedule(self, corpus: str, times: int = 1, even: bool = False) -> Schedule:
        """One of the three schedules; `even`: in batches that methods of 1 to 6, 8 or 10 views per caption fill."""
        views = self.views * times if isinstance(self.views, int) else self.views[corpus][times - 1]
        return Schedule(views, self.divisible_batch_views if even else self.batch_views)

    def experiment(
        self,
        name: str,
        method: Method,
        data: Recipe,
        schedule: Schedule,
        encoder: ViTConfig | None = None,
    ) -> Experiment:
        """One run, called `<file>-<size>-<comparison>/<method>-<row>`; `method` as its paper has it, or changed."""
        return Experiment(
            name=name,
            version=VERSION,
            method=type(method).__module__.rpartition(".")[2],
            settings=tiny(method) if self.toy_world else method,
            dataset=data.repo,
            revision=_revision(data),
            schedule=schedule,
            encoder=encoder or self.encoder,
            seeds=(0,),
        )


def _below_a_root(name: str) -> Recipe:
    """The recipe where its captions are prepared, of the folders that are searched for datasets; else in the first."""
    found = [recipe.find(name, root) for root in mirror.roots()]
    return next((each for each in found if _declared(each)), found[0])


def _declared(data: Recipe) -> bool:
    try:
        return bool(data.revision)
    except UserError:
        return False


def _revision(data: Recipe) -> str:
    """Of a recipe; where its captions are not prepared, of the dataset that was built of it or downloaded."""
    if _declared(data):
        return data.revision
    try:
        manifest = schema.read_manifest(mirror.dataset_folder(data.repo, UNKNOWN_REVISION))
    except UserError:
        return UNKNOWN_REVISION
    same = [data.name, data.version, data.images_per_caption, list(data.guidance), data.seed]
    stored = [manifest.recipe.get(key) for key in ("name", "version", "images_per_caption", "guidance", "seed")]
    return manifest.revision if stored == same else UNKNOWN_REVISION


_BASE = ViTConfig()
_LARGE = ViTConfig(width=1024, depth=24, heads=16)
_SMALL = ViTConfig(width=384, heads=6)


def _epochs(captions: int, *counts: int) -> tuple[int, int, int]:
    """Views of three schedules of StableRep: six images of every caption in each epoch."""
    short, middle, long = (captions * 6 * count for count in counts)
    return short, middle, long


_CC12M = _epochs(8_300_000, 15, 31, 46)

SIZES = {
    size.name: size
    for size in (
        Scale(
            name="smoke",
            images=2_000,
            captions=None,
            encoder=ViTConfig(image_size=32, patch=8, width=128, depth=4, heads=4),
            large_encoder=ViTConfig(image_size=32, patch=8, width=192, depth=6, heads=6),
            batch_views=120,
            divisible_batch_views=120,
            views=40_800,
            caption_counts=(200, 600, 2_000),
            toy_world="toy",
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
                # Not published for these: CC3M as many epochs of two views as the paper's 35, LAION as CC12M.
                "cc3m": (70 * 2_700_000, 140 * 2_700_000, 210 * 2_700_000),
                "laion-50m": _CC12M,
            },
            caption_counts=(1_000_000, 3_000_000, 10_000_000, 20_000_000, 50_000_000),
        ),
    )
}
"""Name -> size; the names of datasets' sizes, and `smoke`, which is the embedded world."""
