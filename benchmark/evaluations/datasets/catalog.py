"""Catalog of the labeled datasets, one row each; `benchmark.evaluations.datasets.splits` opens their splits.

In the literature one name covers several datasets: SUN397 has three test sets, Caltech-101 three protocols. Here a
plain name is the split that Kornblith et al. (2019) and ssl-transfer (Ericsson et al., 2021) evaluate on; a copy on the
Hub with another split has its own name (`flowers-mteb`). Each row declares the number of images of its splits.

Hub datasets are read from the local mirror (`benchmark.mirror`) at a pinned revision. Original files are placed by the
user in `originals/` and hashed (`benchmark.evaluations.datasets.originals`). The scenes datasets are built by this
package; their manifest has revision and counts. `digits` is part of scikit-learn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.errors import UserError, unknown
from benchmark.evaluations.datasets import mask_classes
from benchmark.mirror import ORIGINALS, dataset_folder
from benchmark.schema import read_manifest

BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
PARQUET, TARS, FILES, PACKAGE = "parquet", "tars", "files", "package"


@dataclass(frozen=True)
class Dataset:
    """A labeled dataset. `revision` and `rows` are empty if they are read from its manifest or from its split files."""

    name: str
    repo: str
    licence: str
    """License as stated by the repository; the license of the images may differ."""
    revision: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Number of rows by split, as the split is named in the files."""
    image: str = "image"
    labels: tuple[str, ...] = ()
    """Label columns. With two columns, the class is the pair of values."""
    multi_label: bool = False
    """True if each row has a list of classes."""
    classes: int | None = None
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Class names of the integers, by label column; class names in the files must be equal."""
    id: str = ""
    """Column with the ids of the images; datasets with the same images then share stored features."""
    caption_choices: tuple[str, ...] = ()
    """Columns with the true caption, then the false ones."""
    caption_list: str = ""
    """Column with all captions of an image, five or more, all of them true."""
    mask: str = ""
    """Column with the label of each pixel; its class names are in `names`."""
    first_label: int = 0
    """Label of the first class; the others follow."""
    void: tuple[int, ...] = (255,)
    """Labels of pixels that do not count."""
    background: tuple[str, ...] = ()
    """Classes of pixels that the mean IoU of the objects leaves out; empty if all classes are alike."""
    side: int = 224
    """Side in pixels of the square at which frozen networks see the images of a segmentation dataset."""
    box: tuple[str, ...] = ()
    """Columns with the bounding box that the image is cropped to: x, y, width, height in pixels."""
    group: str = ""
    """Column with the group of a row in macro averages: its relation, or its pair of attributes."""
    train: str | None = "train"
    val: str | None = None
    """Official validation split, if the protocol uses one."""
    test: str = "test"
    folder: str = "data"
    kind: str = PARQUET
    """File format: Parquet, tars of WebDataset, original files, or data of a Python package."""
    metric: str = "top1"
    """Main score."""
    note: str = ""
    """Peculiarity of the split that readers of the scores should know."""

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """Names of the classes of pixels."""
        return self.names.get(self.mask, ())

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns to read, apart from the image."""
        named = (self.id, *self.labels, *self.caption_choices, self.caption_list, *self.box, self.group, self.mask)
        return tuple(dict.fromkeys(filter(None, named)))

    @property
    def splits(self) -> dict[str, str]:
        """Names in the files of the splits that exist, by `train`, `val` and `test`."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {split: part for split, part in named.items() if part}

    @property
    def files(self) -> tuple[str, ...]:
        """Patterns of the files to read from its Hub repository."""
        parts = self.splits.values()
        if self.kind == TARS:
            return ("README.md", *(f"{part}/*" for part in parts), *(f"data/{part}-*.parquet" for part in parts))
        return ("README.md", *(f"{self.folder}/{part}-*.parquet" for part in parts))

    @property
    def chance(self) -> float | None:
        """Score of a uniform guess; None if it depends on more than the number of choices."""
        if self.caption_choices:
            return 1 / len(self.caption_choices)
        return 1 / self.classes if self.classes and not self.multi_label else None


def _hub(name: str, repo: str, revision: str, train_n: int | None, test_n: int, **more: Any) -> Dataset:
    """Return the row of a dataset on the Hub.

    Args:
        name: Name in the catalog.
        repo: Repository on the Hub.
        revision: Commit of the repository.
        train_n: Number of training images. None: there is no train split.
        test_n: Number of test images.
        **more: Other fields of `Dataset`.
    """
    rows = {more.get("test", "test"): test_n} | ({"train": train_n} if train_n else {})
    fixed = {"licence": "unspecified", "revision": revision, "rows": rows, "train": "train" if train_n else None}
    return Dataset(name, repo, **(fixed | more))


def _original(name: str, sizes: tuple[int, ...], classes: int | None, licence: str, **more: Any) -> Dataset:
    """Return the row of a dataset of original files; `sizes` are those of train, val, test; of train, test; or of test.

    The other arguments are fields of `Dataset`.
    """
    parts = {3: ("train", "val", "test"), 2: ("train", "test"), 1: ("test",)}[len(sizes)]
    fixed: dict[str, Any] = {
        "repo": f"{ORIGINALS}/{name}",
        "train": "train" if len(sizes) > 1 else None,
        "val": "val" if len(sizes) == 3 else None,
        "labels": ("label",) if classes else (),
    }
    return Dataset(name, licence=licence, rows=dict(zip(parts, sizes)), classes=classes, kind=FILES, **(fixed | more))


def _scenes(name: str, folder: str, **more: Any) -> Dataset:
    return Dataset(name, f"synrep-bench/{folder}", "Apache-2.0", **more)


def _fairface(margin: str) -> Dataset:
    return _hub(
        f"fairface-{margin}", "HuggingFaceM4/FairFace", "54d573cdb8b5af490ba8da9da2799628f6e5c496", 86_744, 10_954,
        labels=("race", "gender"), classes=14, names={"race": _RACES, "gender": ("Male", "Female")},
        test="validation", folder=margin, licence="cc-by-4.0", metric="mean_per_class",
        note=f"faces cut out with a margin of {margin} of their size; the test is FairFace's validation split",
    )  # fmt: skip


_MIOU = "miou"
_LABEL = {"labels": ("label",)}
_ACCURACY = {"metric": "accuracy"}
_MEAN = {"metric": "mean_per_class"}
_TRUE_FALSE = ("true_caption", "false_caption")
_ORDER = ("correct_caption", "hard_text_1", "hard_text_2", "hard_text_3", "hard_text_4")
_RACES = ("East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian")
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_UNCROPPED = "no boxes and no names: by their sizes the images are not cropped, so other scores than the paper's"
_FROZEN = "captions frozen by mteb; the authors' code draws new ones for each version of spaCy and NLTK"
_VG = {"repo": f"{ORIGINALS}/aro", "caption_choices": _TRUE_FALSE, "box": BOX, "image": "image_path", **_ACCURACY}
_RETRIEVAL = {"kind": TARS, "image": "jpg", "caption_list": "txt", "folder": "", "metric": "recall"}

_ROWS = (
    Dataset("digits", "scikit-learn/digits", "CC-BY-4.0", rows={"train": 1197, "test": 600}, classes=10, kind=PACKAGE,
            note="scikit-learn's 8 x 8 digits, divided here"),
    # StableRep's eleven transfer datasets (linear probe)
    _hub("cifar10", "mteb/cifar10", "69a62dd171e24a133d193073e73fda4dbb823266", 50_000, 10_000,
         image="img", classes=10, **_LABEL),
    _hub("cifar100", "mteb/cifar100", "ac5511f885f65fb75d31a9d8810a8440913f7721", 50_000, 10_000,
         image="img", labels=("fine_label",), classes=100),
    _original("aircraft", (3_334, 3_333, 3_333), 100, "non-commercial research", note="100 variants", **_MEAN),
    _hub("cars", "mteb/StanfordCars", "09ffe9bc7864d3f1e851529e5c4b7e05601a04fb", 8_144, 8_041, classes=196, **_LABEL),
    _original("dtd", (1_880, 1_880, 1_880), 47, "research only", note="split 1 of ten"),
    _original("flowers", (1_020, 1_020, 6_149), 102, "unspecified", **_MEAN),
    _hub("pets", "mteb/OxfordPets", "557b480fae8d69247be74d9503b378a09425096f", 3_680, 3_669, classes=37,
         **_LABEL, **_MEAN),
    _original("sun397", (19_850, 19_850), 397, "unspecified", note="partition 01 of ten"),
    _original("caltech101", (2_416, 6_728), 102, "CC-BY-4.0", **_MEAN,
              note="the lists of ssl-transfer: 30 draws a class with replacement; the background counts as a class"),
    _hub("food101", "mteb/food101", "7cca05bfde8fdad4a9b39ed14a881c800cc1dca2", 75_750, 25_250,
         classes=101, test="validation", **_LABEL),
    _original("voc2007", (2_501, 2_510, 4_952), 20, "Flickr terms of use", names={"label": VOC_CLASSES},
              multi_label=True, metric="map11", note="an object marked difficult does not make an image positive"),
    # Copies of the above on the Hub with other splits
    _hub("aircraft-mteb", "mteb/FGVCAircraft", "3ae0e4e94e37c610c26df758ec3255fa90d80e67", 3_334, 3_333,
         labels=("variant",), classes=100, note="official train and test, without the validation images", **_MEAN),
    _hub("dtd-mteb", "mteb/dtd", "96726183040de9e64a590d08eaac8de940dfcbdf", 3_760, 1_880, classes=47, **_LABEL,
         note="train and validation of one official split are merged in train"),
    _hub("flowers-mteb", "mteb/oxford-flowers", "df976877feae05654b0fcd8b394baff731b00652", 7_169, 1_020, classes=102,
         note="the official test images are in train, so easier than the official split", **_LABEL, **_MEAN),
    _hub("sun397-mteb", "mteb/sun397", "c684cff33166060e2ae05525a5c4abdf5e6d7bce", 76_127, 21_750, classes=397,
         note="not a partition of the paper: four times the training images", **_LABEL),
    _hub("caltech101-mteb", "mteb/Caltech101", "011e51e5fb01f0c820824734edb7a539ab8e6650", 3_060, 6_084, classes=102,
         note="30 distinct images a class, not the lists of ssl-transfer", **_LABEL, **_MEAN),
    _hub("voc2007-mteb", "mteb/VOC2007", "96d47458fb2f40713997b0ea271688c02bac840b", 2_501, 4_952, labels=("classes",),
         classes=20, multi_label=True, metric="map11",
         note="official train and test without the validation images; whether difficult objects count is not stated"),
    # Further classification datasets
    _hub("imagenet", "mteb/wds_imagenet1k", "b54c9af96641d8a2cba5d1144629c724de94ef76", 1_281_167, 50_000, kind=TARS,
         folder="", image="jpg", labels=("cls",), classes=1000, licence="non-commercial research",
         note="the test is ILSVRC2012's validation split"),
    _hub("stl10", "mteb/stl10", "2da456fe65204f88c2cb5e5ff17f85f442ef3eaa", 5_000, 8_000, classes=10, **_LABEL),
    _hub("eurosat", "mteb/eurosat-rgb", "da02b77448e750b3b034e0b5da008167b9706571", 16_200, 5_400, classes=10, **_LABEL,
         note="there is no official split; this is that of the copy"),
    _hub("resisc45", "timm/resisc45", "fe12fc5f1b7606543b0355eda392f1ddc54625c6", 18_900, 6_300, classes=45, **_LABEL,
         licence="unknown", note="there is no official split; this is that of the copy, without its validation images"),
    # Scenes datasets, built by this package
    _scenes("scenes-shape", "scenes-objects", labels=("shape",), classes=8, id="id"),
    _scenes("scenes-colour", "scenes-objects", labels=("colour",), classes=8, id="id"),
    _scenes("scenes-texture", "scenes-objects", labels=("texture",), classes=4, id="id"),
    _scenes("scenes-kinds", "scenes-objects", labels=("colour", "shape"), id="id"),
    _scenes("scenes-relation-probe", "scenes-pairs", labels=("relation",), classes=4),
    _scenes("scenes-groups", "scenes-groups", labels=("colour", "size"), classes=14, train=None, **_MEAN),
    _scenes("scenes-relation", "scenes-relation", caption_choices=_TRUE_FALSE, box=BOX, group="relation_name",
            train=None, **_ACCURACY),
    _scenes("scenes-attribution", "scenes-attribution", caption_choices=_TRUE_FALSE, box=BOX, group="attributes",
            train=None, **_ACCURACY),
    _scenes("scenes-order", "scenes-order", caption_choices=_ORDER, train=None, **_ACCURACY),
    # Segmentation datasets
    _scenes("scenes-masks", "scenes-masks", mask="mask", names={"mask": mask_classes.SCENES}, id="id", side=64,
            background=mask_classes.SCENES[:6], metric=_MIOU),
    _original("ade20k", (20_210, 2_000), None, "BSD-3-Clause", mask="mask", names={"mask": mask_classes.ADE20K},
              first_label=1, void=(0, 255), metric=_MIOU, note="the test is the validation split of the challenge"),
    _original("voc2012", (1_464, 1_449), None, "Flickr terms of use", mask="mask", metric=_MIOU,
              names={"mask": ("background", *VOC_CLASSES)}, background=("background",),
              note="the test is the validation split"),
    _original("camvid", (367, 101, 233), None, "research use", mask="mask", names={"mask": mask_classes.CAMVID},
              void=(11, 255), metric=_MIOU, note="the splits of SegNet; pictures of a video are alike"),
    # Image-text datasets
    _fairface("0.25"),
    _fairface("1.25"),
    _original("aro-vg-relation", (23_937,), None, "MIT", group="relation_name", **_VG),
    _original("aro-vg-attribution", (28_748,), None, "MIT", group="attributes", **_VG),
    _hub("aro-vg-relation-mteb", "mteb/ARO-Visual-Relation", "53c1115ab5871ab33b09d5bb8856236d46bdaf2d", None, 23_937,
         caption_choices=_TRUE_FALSE, licence="mit", note=_UNCROPPED, **_ACCURACY),
    _hub("aro-vg-attribution-mteb", "mteb/ARO-Visual-Attribution", "25fe9b460426ff67cdb0608a737c94f8f49a901e", None,
         28_748, caption_choices=_TRUE_FALSE, licence="mit", note=_UNCROPPED, **_ACCURACY),
    _hub("aro-coco-order", "mteb/ARO-COCO-order", "53c20afc02a87fed8c0245dde2e00f054da4b861", None, 25_010,
         caption_choices=_ORDER, image="images", licence="mit", note=_FROZEN, **_ACCURACY),
    _hub("aro-flickr30k-order", "mteb/ARO-Flickr-Order", "e5d7f3502345b2c398a6645b4d09b44e650287bf", None, 5_000,
         caption_choices=_ORDER, image="images", licence="mit", note=_FROZEN, **_ACCURACY),
    _hub("sugarcrepe", "mteb/SUGARCREPE_fmt", "e9e0e3ce40c94023c819d3413edb5d090ec9f0d8", None, 7_511, test="train",
         caption_choices=("caption", "negative_caption"), image="images", licence="mit", **_ACCURACY,
         note="the copy calls its only split train; no column with the seven types is known of it"),
    _hub("flickr30k", "clip-benchmark/wds_flickr30k", "f8af3ceee1b944bf761340682621dfafd23974d2", None, 1_000,
         note="the 1,000 test images of Karpathy and Fei-Fei (2015)", **_RETRIEVAL),
    _hub("mscoco", "clip-benchmark/wds_mscoco_captions", "3bf9ad5d280b03126293bcc691585015e29ce691", None, 5_000,
         note="the 5,000 test images of Karpathy and Fei-Fei (2015); ten of them have six or seven captions",
         **_RETRIEVAL),
)  # fmt: skip
DATASETS = {row.name: row for row in _ROWS}
TRANSFER_11 = (
    "cifar10", "cifar100", "aircraft", "cars", "dtd", "flowers", "pets", "sun397", "caltech101", "food101", "voc2007",
)  # fmt: skip
"""Datasets of StableRep's linear probes (table 2), in their official splits."""
HUB_COPIES = ("aircraft-mteb", "dtd-mteb", "flowers-mteb", "sun397-mteb", "caltech101-mteb", "voc2007-mteb")
"""Copies of `TRANSFER_11` on the Hub, in other splits."""


def dataset(name: str) -> Dataset:
    """Return the row called `name`.

    Raises:
        UserError: there is no such dataset.
    """
    if name not in DATASETS:
        raise unknown("dataset", name, list(DATASETS))
    return DATASETS[name]


def locate(row: Dataset, hint: str = "") -> tuple[Path, str, Mapping[str, int]]:
    """Return the folder of a dataset on this machine, its revision, and the number of rows of its splits.

    Raises:
        MissingDataset: the dataset is not on this machine; the message ends with `hint`, or with how to get it.
        UserError: its manifest cannot be read, or is that of another dataset.
    """
    if not hint and row.revision:
        hint = f"run `synrep data download {row.name}`"
    folder = dataset_folder(row.repo, row.revision, hint)
    if row.revision or row.kind == FILES:
        return folder, row.revision, row.rows
    manifest = read_manifest(folder)
    if manifest.repo != row.repo:
        raise UserError(f"expected dataset {row.repo} in {folder}, found {manifest.repo}; move it and build {row.repo}")
    return folder, manifest.revision, manifest.rows
