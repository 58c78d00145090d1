"""How a caption becomes views: images drawn from those it has, crops of each, and how a crop is made."""

from dataclasses import dataclass

from benchmark.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """How one view is made from an image; the defaults are SimCLR's as StableRep uses them.

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


SIMCLR = Augmentation()
WEAK = Augmentation(scale=(0.5, 1.0), flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)


@dataclass(frozen=True)
class Sampling:
    """How a caption becomes views: `images` of its l images, `crops` of each, with or without its text."""

    images: int = 1
    crops: int = 1
    text: bool = False
    augmentation: Augmentation = SIMCLR
    further: tuple[Augmentation, ...] = ()
    """Of the second, third, ... crop of an image, where they are not made as the first one is."""

    @property
    def views(self) -> int:
        """Views per caption."""
        return self.images * self.crops

    @property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """One for each crop of an image.

        Raises:
            UserError: there are more or fewer.
        """
        every = (self.augmentation, *(self.further or (self.augmentation,) * (self.crops - 1)))
        if len(every) != self.crops:
            raise UserError(f"{self.crops} crops per image, {len(every)} augmentations; give one for each crop, or one")
        return every
