"""The labelled datasets: one row each. `benchmark.evaluations._splits` opens a split of them.

Hub datasets are read from the local mirror (`benchmark.mirror`) at a pinned revision; the rows give the counts that
the split must have, because one name covers several datasets in the field (SUN397 has three test sets). Scenes sets
are built here: their manifest gives revision and counts. `digits` comes with scikit-learn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.errors import unknown
from benchmark.mirror import dataset_folder
from benchmark.schema import read_manifest

BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")


@dataclass(frozen=True)
class Dataset:
    """A labelled dataset. `revision` and `rows` are empty where the folder's manifest says them."""

    name: str
    repo: str
    licence: str
    revision: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Split, as its files are named -> rows."""
    image: str = "image"
    labels: tuple[str, ...] = ()
    """With two columns the class is the pair of values."""
    classes: int | None = None
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label column -> what its integers mean; the file's own names must agree."""
    id: str = ""
    """Column with the images' ids; rows of the catalogue over the same images then share features."""
    captions: tuple[str, ...] = ()
    """The true caption, then the false ones."""
    box: tuple[str, ...] = ()
    group: str = ""
    """Column that names the kind of a caption: its relation, its attributes."""
    train: str | None = "train"
    test: str = "test"
    folder: str = "data"
    metric: str = "top1"

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns other than the image that a split is read with."""
        return tuple(filter(None, (self.id, *self.labels, *self.captions, *self.box, self.group)))


def _scenes(name: str, folder: str, **more: Any) -> Dataset:
    return Dataset(name, f"synrep-bench/{folder}", "Apache-2.0", **more)


def _aro(name: str, repo: str, revision: str, rows: int, **more: Any) -> Dataset:
    return Dataset(name, repo, "mit", revision, {"test": rows}, train=None, **more)


_TRUE_FALSE = ("true_caption", "false_caption")
_ORDER = ("correct_caption", "hard_text_1", "hard_text_2", "hard_text_3", "hard_text_4")
_RACES = ("East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian")

_ROWS = (
    Dataset("digits", "scikit-learn/digits", "CC-BY-4.0", rows={"train": 1197, "test": 600}, classes=10),
    Dataset(
        "cifar10",
        "mteb/cifar10",
        "unspecified",
        "69a62dd171e24a133d193073e73fda4dbb823266",
        {"train": 50_000, "test": 10_000},
        image="img",
        labels=("label",),
        classes=10,
    ),
    _scenes("scenes-shape", "scenes-objects", labels=("shape",), classes=8, id="id"),
    _scenes("scenes-colour", "scenes-objects", labels=("colour",), classes=8, id="id"),
    _scenes("scenes-texture", "scenes-objects", labels=("texture",), classes=4, id="id"),
    _scenes("scenes-kinds", "scenes-objects", labels=("colour", "shape"), id="id"),
    _scenes("scenes-relation-probe", "scenes-pairs", labels=("relation",), classes=4),
    _scenes("scenes-groups", "scenes-groups", labels=("colour", "size"), classes=14, train=None),
    _scenes("scenes-relation", "scenes-relation", captions=_TRUE_FALSE, box=BOX, group="relation_name", train=None),
    _scenes("scenes-attribution", "scenes-attribution", captions=_TRUE_FALSE, box=BOX, group="attributes", train=None),
    _scenes("scenes-order", "scenes-order", captions=_ORDER, train=None),
    Dataset(
        "fairface",
        "HuggingFaceM4/FairFace",
        "cc-by-4.0",
        "6a473468e7c5bcd0e691eeafaef84d3c9a79e73f",
        {"train": 86_744, "validation": 10_954},
        labels=("race", "gender"),
        classes=14,
        names={"race": _RACES, "gender": ("Male", "Female")},
        test="validation",
        folder="0.25",  # the crop with a margin of a quarter
    ),
    # The Hub copies of Visual Genome have neither box nor relation; by their sizes, the images are not cropped.
    _aro("aro-vg-relation", "mteb/ARO-Visual-Relation", "53c1115ab5871ab33b09d5bb8856236d46bdaf2d", 23_937,
         captions=_TRUE_FALSE),
    _aro("aro-vg-attribution", "mteb/ARO-Visual-Attribution", "25fe9b460426ff67cdb0608a737c94f8f49a901e", 28_748,
         captions=_TRUE_FALSE),
    _aro("aro-coco-order", "mteb/ARO-COCO-order", "53c20afc02a87fed8c0245dde2e00f054da4b861", 25_010,
         captions=_ORDER, image="images"),
    _aro("aro-flickr30k-order", "mteb/ARO-Flickr-Order", "e5d7f3502345b2c398a6645b4d09b44e650287bf", 5_000,
         captions=_ORDER, image="images"),
)  # fmt: skip
DATASETS = {row.name: row for row in _ROWS}


def dataset(name: str) -> Dataset:
    """The row called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in DATASETS:
        raise unknown("dataset", name, list(DATASETS))
    return DATASETS[name]


def located(row: Dataset) -> tuple[Path, str, Mapping[str, int]]:
    """Folder of a dataset on this machine, its revision, and the rows of its splits.

    Raises:
        MissingDataset: it is not on this machine; the message says how to get it.
        UserError: its manifest cannot be read.
    """
    folder = dataset_folder(row.repo, row.revision)
    if row.revision:
        return folder, row.revision, row.rows
    manifest = read_manifest(folder)
    return folder, manifest.revision, manifest.rows
