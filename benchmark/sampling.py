"""Settings that turn a caption into training views: images per caption, crops per image, and augmentations."""

from dataclasses import dataclass

from benchmark.errors import UserError, require_whole


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation that turns an image into one view; the defaults are SimCLR's as StableRep uses them.

    Probabilities are per view. `blur_sigma` is in pixels of a 224-pixel view and scales with the view;
    `downsample_to` are short sides as a fraction of the image, drawn uniformly.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grayscale: float = 0.2
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    downsample: float = 0.0
    downsample_to: tuple[float, ...] = (0.25, 0.5)

    def __post_init__(self) -> None:
        """Raise a UserError if a probability is not between 0 and 1, or the scale is not a range of areas."""
        for name in ("flip", "jitter", "grayscale", "blur", "solarize", "downsample"):
            if not isinstance(value := getattr(self, name), int | float) or not 0 <= value <= 1:
                raise UserError(f"expected {name} to be a probability, from 0 to 1, found {value!r}; change it")
        try:
            low, high = self.scale
            valid = 0 < low <= high <= 1
        except (TypeError, ValueError):
            valid = False
        if not valid:
            raise UserError(f"expected scale to be two fractions of the area, found {self.scale}; change it")


SIMCLR = Augmentation()
WEAK = Augmentation(scale=(0.5, 1.0), flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)


@dataclass(frozen=True)
class Sampling:
    """Number of images per caption and of crops per image in a batch, their augmentations, and whether texts are read.

    The field names are part of recorded hashes; code reads `images_per_caption` and `crops_per_image`.
    """

    images: int = 1
    crops: int = 1
    text: bool = False
    """True if batches include the captions."""
    augmentation: Augmentation = SIMCLR
    further: tuple[Augmentation, ...] = ()
    """Augmentations of the second and later crops of an image. Empty: all crops use `augmentation`."""

    def __post_init__(self) -> None:
        """Raise a UserError if a number is not at least 1, or an augmentation is of another type."""
        for name in ("images", "crops"):
            require_whole(f"{name} of a Sampling", getattr(self, name), 1)
        for each in (self.augmentation, *self.further):
            if not isinstance(each, Augmentation):
                raise UserError(f"expected an Augmentation, found {type(each).__name__}; pass `Augmentation(...)`")

    @property
    def images_per_caption(self) -> int:
        """Number of images that a batch samples from those of a caption."""
        return self.images

    @property
    def crops_per_image(self) -> int:
        """Number of views made from each sampled image."""
        return self.crops

    @property
    def views(self) -> int:
        """Number of views per caption."""
        return self.images * self.crops

    @property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """The augmentation of each crop of an image.

        Raises:
            UserError: the number of augmentations differs from the number of crops.
        """
        every = (self.augmentation, *(self.further or (self.augmentation,) * (self.crops - 1)))
        if len(every) != self.crops:
            raise UserError(
                f"expected one augmentation, or one for each of the {self.crops} crops per image, found {len(every)}; "
                "change `further` or `crops`"
            )
        return every
