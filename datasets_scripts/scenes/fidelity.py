"""Fidelity and diversity of images of the scenes: what the examiner reads against what the captions say.

Fidelity is the share of images, or of the objects that captions name, whose factor is as described. A missing object
has no factor right. The two objects that the examiner reads are assigned to those of the caption so that more of their
attributes agree, and as the caption places them if both ways agree equally. The relation is right if the objects lie
along its axis and that assignment is the caption's. "all" is the share of images with every factor right.

Diversity is the spread within a caption, over the objects that are as described, so that a mistake is not diversity:
standard deviation of position, rotation and hue, and root mean square distance in the examiner's features, relative to
that between images of different captions.

Images of one caption are dependent: all intervals have captions as clusters.

Shapes: N images, C captions, 2 slots, F attributes of an object, D features.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from tabulate import tabulate

from benchmark import schema
from benchmark.errors import UserError
from benchmark.evaluations.scoring import clusters
from benchmark.images import decode_image
from datasets_scripts.generation.diffusion import resize
from datasets_scripts.inspection.examine import open_parquet, rows_of
from datasets_scripts.recipe import seed_of
from datasets_scripts.scenes import grammar, renderer
from datasets_scripts.scenes.examiner import Factors, Readings, described, load, read

MAX_IMAGES = 20_000
"""Images of a dataset that are read: those of its first captions, which are in random order."""
REFERENCE_CAPTIONS = 200
"""Captions that are rendered for the diversity of reality."""
NEAR = 0.5
"""Distance of the features of near duplicates: below that of any two renderings of a caption (0.57; median 1.5), above
that of nine tenths of the images and their JPEG copies of quality 90. It depends on the weights of the examiner."""


@dataclass(frozen=True)
class Spread:
    """A diversity with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fidelity:
    """Fidelity and diversity of images."""

    captions: int
    images: int
    unknown: int
    """Images of captions outside the grammar, about which no truth is known; they are left out of everything else."""
    factors: dict[str, clusters.Score]
    """Share that is as described, by factor."""
    diversity: dict[str, Spread]
    near_duplicates: clusters.Score
    """Share of the images that are nearly equal to another image of their caption."""

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        found: dict[str, Any] = json.loads(json.dumps(self, default=vars))
        return found


def scenes_of(captions: Sequence[str]) -> list[grammar.Scene | None]:
    """Return the scene of each caption; None for a caption outside the grammar."""
    scenes: list[grammar.Scene | None] = []
    for caption in captions:
        try:
            scenes.append(grammar.parse(caption))
        except UserError:
            scenes.append(None)
    return scenes


@dataclass(frozen=True)
class Agreement:
    """Comparison of N images with their captions."""

    factors: dict[str, np.ndarray]
    """1 if a factor is as described, 0 if not, NaN if the caption does not name it: (N), or (N, 2) of its slots."""
    swapped: np.ndarray
    """Whether slots are exchanged to match the caption, bool (N)."""


def agreement(found: Factors, scenes: Sequence[grammar.Scene]) -> Agreement:
    """Compare what N images show with what their captions say."""
    layout_N, background_N, attributes_N2F = described(scenes)
    named_N2 = attributes_N2F[..., 0] >= 0
    kept_N2F, exchanged_N2F = found.attributes == attributes_N2F, found.attributes[:, ::-1] == attributes_N2F
    swapped_N = exchanged_N2F.sum((1, 2)) > kept_N2F.sum((1, 2))
    right_N2F = np.where(swapped_N[:, None, None], exchanged_N2F, kept_N2F)
    pair_N = layout_N > 0
    factors = {"objects": ((found.layout > 0) == pair_N).astype(float)}
    factors |= {name: np.where(named_N2, right_N2F[..., f], np.nan) for f, name in enumerate(grammar.ATTRIBUTES)}
    factors["relation"] = np.where(pair_N, (found.layout == layout_N) & ~swapped_N, np.nan)
    factors["background"] = (found.background == background_N).astype(float)
    columns = np.column_stack(list(factors.values()))
    factors["all"] = ((columns == 1) | np.isnan(columns)).all(1).astype(float)
    return Agreement(factors, swapped_N)


def shares(agreed: Agreement, unit_N: np.ndarray) -> dict[str, clusters.Score]:
    """Return the share of each factor that is as described, with the captions `unit_N` as clusters."""
    result = {}
    for name, right in agreed.factors.items():
        unit = unit_N if right.ndim == 1 else np.broadcast_to(unit_N[:, None], right.shape)
        named = ~np.isnan(right)
        if named.any():
            result[name] = clusters.share(right[named], unit[named])
    return result


def diversity(found: Readings, agreed: Agreement, unit_N: np.ndarray) -> dict[str, Spread]:
    """Return the spreads within captions: position in pixels, rotation and hue in degrees, and of the features.

    What cannot be measured, as no caption has two images, is left out.
    """
    unit_N = np.unique(unit_N, return_inverse=True)[1]
    object_N2 = 2 * unit_N[:, None] + (np.arange(2) ^ agreed.swapped[:, None])
    relation_N = agreed.factors["relation"]
    placed_N = np.where(np.isnan(relation_N), agreed.factors["objects"], relation_N) == 1

    def in_slots(name: str) -> np.ndarray:
        """Return whether a factor of the object that was read in each slot is as described, bool (N, 2)."""
        right_N2 = agreed.factors[name] == 1
        return np.where(agreed.swapped[:, None], right_N2[:, ::-1], right_N2)

    shown = {
        "position": (found.position, np.repeat(placed_N[:, None], 2, 1)),
        "rotation": (found.rotation[..., None], in_slots("shape")),
        "hue": (found.hue[..., None], in_slots("colour")),
    }
    result = {}
    for name, (values_N2D, right_N2) in shown.items():
        chosen_N2 = right_N2 & ~np.isnan(values_N2D).any(-1)
        values_MD, object_M = values_N2D[chosen_N2], object_N2[chosen_N2]
        if name == "hue":
            values_MD = _unwrapped(values_MD, object_M)
        if spread := _spread(values_MD, object_M, object_M // 2):
            result[name] = spread
    within = _spread(found.features, unit_N, unit_N)
    if within and (between := _between(found.features, unit_N)):
        scale = 2**0.5 / between
        result["features"] = Spread(within.value * scale, within.low * scale, within.high * scale)
    return result


def _unwrapped(hue_M1: np.ndarray, group_M: np.ndarray) -> np.ndarray:
    """Return hues as differences from the circular mean of their group, degrees."""
    groups = int(group_M.max(initial=-1)) + 1
    angle_M = np.radians(hue_M1[:, 0])
    sine, cosine = (np.bincount(group_M, weights=part, minlength=groups) for part in (np.sin(angle_M), np.cos(angle_M)))
    mean_M = np.degrees(np.arctan2(sine, cosine))[group_M]
    return ((hue_M1[:, 0] - mean_M + 180) % 360 - 180)[:, None]


def _spread(values_MD: np.ndarray, group_M: np.ndarray, unit_M: np.ndarray) -> Spread | None:
    """Return the standard deviation within groups, pooled over them, summed over D; None without two in a group.

    Args:
        values_MD: Values.
        group_M: Group of each value.
        unit_M: Cluster of each value, for the interval: linearization of a ratio of sums over clusters.
    """
    if not len(values_MD):
        return None
    group_M = np.unique(group_M, return_inverse=True)[1]
    count_G = np.bincount(group_M)
    sum_GD = np.stack([np.bincount(group_M, weights=column) for column in values_MD.T], 1)
    square_M = np.square(values_MD - (sum_GD / count_G[:, None])[group_M]).sum(1)
    freedom_M = (1 - 1 / count_G)[group_M]
    total, freedom = square_M.sum(), freedom_M.sum()
    if freedom < 0.5:
        return None
    variance = total / freedom
    influence_U = np.bincount(np.unique(unit_M, return_inverse=True)[1], weights=square_M - variance * freedom_M)
    units = len(influence_U)
    error = np.sqrt(np.square(influence_U).sum() * units / max(units - 1, 1)) / freedom
    low, high = max(0.0, variance - clusters.Z * error), variance + clusters.Z * error
    return Spread(*(float(np.sqrt(each)) for each in (variance, low, high)))


def _between(values_ND: np.ndarray, unit_N: np.ndarray) -> float:
    """Return the root mean square distance between values of different units; zero without two units."""
    values_ND = values_ND.astype(np.float64) - values_ND.mean(0, dtype=np.float64)

    def squares(index_N: np.ndarray) -> tuple[float, float]:
        """Return the sum of the squared distances of all pairs within groups, and their number."""
        count_G = np.bincount(index_N)
        sum_GD = np.stack([np.bincount(index_N, weights=column) for column in values_ND.T], 1)
        square_G = np.bincount(index_N, weights=np.square(values_ND).sum(1))
        return float((count_G * square_G - np.square(sum_GD).sum(1)).sum()), float((count_G * (count_G - 1)).sum() / 2)

    (all_squares, all_pairs), (own_squares, own_pairs) = squares(np.zeros_like(unit_N)), squares(unit_N)
    return ((all_squares - own_squares) / (all_pairs - own_pairs)) ** 0.5 if all_pairs > own_pairs else 0.0


def near_duplicates(features_ND: np.ndarray, unit_N: np.ndarray) -> np.ndarray:
    """Return whether each image is nearly equal to another one of its caption, bool (N)."""
    near_N = np.zeros(len(unit_N), bool)
    order = np.argsort(unit_N, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(unit_N[order])) + 1):
        own = features_ND[members].astype(np.float64)
        distance = cdist(own, own)
        np.fill_diagonal(distance, np.inf)
        near_N[members] = distance.min(1, initial=np.inf) < NEAR
    return near_N


def measure(captions: Sequence[str], found: Readings) -> Fidelity:
    """Compare N images with their captions.

    Args:
        captions: The caption of each image.
        found: What the examiner reads from the images.

    Raises:
        UserError: no caption follows the grammar, so no truth is known.
    """
    scenes = scenes_of(captions)
    known = np.array([scene is not None for scene in scenes])
    if not known.any():
        raise UserError(
            f"expected captions of the scenes grammar, found none in {len(captions)} images; measure a toy dataset"
        )
    unit_N = np.unique(np.array(captions, object)[known], return_inverse=True)[1]
    found = found.select(known)
    agreed = agreement(found, [scene for scene in scenes if scene is not None])
    return Fidelity(
        captions=int(unit_N.max()) + 1,
        images=len(unit_N),
        unknown=int((~known).sum()),
        factors=shares(agreed, unit_N),
        diversity=diversity(found, agreed, unit_N),
        near_duplicates=clusters.share(near_duplicates(found.features, unit_N), unit_N),
    )


def rendered(captions: Sequence[str]) -> Fidelity:
    """Return the fidelity and diversity of renderings of captions, one image for each: those of reality."""
    images = [renderer.render(caption, seed_of("reference", n)) for n, caption in enumerate(captions)]
    return measure(captions, read(np.stack([each.image for each in images])))


def is_scenes(recipe: dict[str, Any]) -> bool:
    """Return whether a dataset's captions are of the scenes grammar, by its recipe."""
    return str(recipe.get("captions", "")).startswith("scenes grammar")


def of_dataset(folder: Path) -> dict[str, Any]:
    """Return the fidelity of a dataset as JSON, with the diversity of renderings of its captions as `reference`.

    At most MAX_IMAGES are read, a work unit at a time.

    Raises:
        UserError: the dataset cannot be read, has no image, or none whose caption follows the grammar.
    """
    examiner, captions, parts = load(), [], []
    for row_captions, images_NHW3 in _units(folder):
        captions += row_captions
        parts.append(read(images_NHW3, examiner))
    if not captions:
        raise UserError(f"{folder} has no images, all failed; see the status column, then build the dataset again")
    found = measure(captions, Readings.concatenate(parts))
    known = [caption for caption, scene in zip(captions, scenes_of(captions)) if scene]
    chosen = set(list(dict.fromkeys(known))[:REFERENCE_CAPTIONS])
    return found.as_json() | {"reference": rendered([each for each in known if each in chosen]).as_json()["diversity"]}


def as_text(found: dict[str, Any]) -> str:
    """Return the fidelity of a dataset, JSON of `of_dataset`, as a table for a terminal."""
    shares = found["factors"] | {"near duplicates": found["near_duplicates"]}
    rows = [
        [name, *(f"{100 * share[key]:.1f}" for key in ("value", "low", "high")), f"{share['n']:,}"]
        for name, share in shares.items()
    ]
    table = tabulate(rows, ["factor", "share, %", "95 % from", "to", "n"], disable_numparse=True)
    unknown = f"; no truth is known about {found['unknown']:,} more" if found["unknown"] else ""
    return f"fidelity of {found['images']:,} images, read from their pixels{unknown}\n{table}"


def _units(folder: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield captions and images (N, SIZE, SIZE, 3) of up to MAX_IMAGES, about a work unit at a time."""
    total = 0
    for path in sorted(folder.glob("data/*.parquet")):
        captions: list[str] = []
        images: list[np.ndarray] = []
        with open_parquet(path) as file:
            for row in rows_of(file, [schema.CAPTION, schema.IMAGES]):
                shown = [resize(decode_image(image["bytes"]), grammar.SIZE) for image in row[schema.IMAGES] if image]
                images += shown
                captions += [row[schema.CAPTION]] * len(shown)
                total += len(shown)
                if len(images) >= schema.UNIT_CAPTIONS or total >= MAX_IMAGES:
                    yield captions, np.stack(images)
                    captions, images = [], []
                if total >= MAX_IMAGES:
                    return
        if images:
            yield captions, np.stack(images)
