"""Opening of the splits of labeled datasets; `benchmark.evaluations.datasets.catalog` lists the datasets.

Images are decoded when they are read. Any difference from the catalog (columns, counts, classes) is an error, because
a score measured on other data looks like any other score.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from benchmark.errors import MissingDataset, UserError
from benchmark.evaluations.datasets import content
from benchmark.evaluations.datasets.catalog import FILES, PACKAGE, TARS, Dataset, dataset, locate
from benchmark.evaluations.datasets.masks import read_mask
from benchmark.evaluations.datasets.originals import FILE_SIZE, OriginalSplit
from benchmark.evaluations.datasets.parquet import ParquetSplit
from benchmark.evaluations.datasets.tars import TarSplit
from benchmark.files import sha256_json
from benchmark.images import DecodeError, decode_image
from benchmark.interfaces import DatasetIdentity, LabeledImages
from benchmark.verified import listing_sha256

IMAGE_SHA256 = "image_sha256"
"""Column of datasets with captions: sha256 of the encoded image, which several rows may share."""
MIN_CAPTIONS = 5
"""Minimum number of captions of an image in a retrieval dataset."""


class SplitSource(Protocol):
    """Reader of the files of a split."""

    location: str
    """Path or pattern of the files, for error messages."""
    n: int
    """Number of rows."""

    def columns(self) -> dict[str, list[Any]]:
        """Return N values by column name."""
        ...

    def image_bytes(self, row: int) -> bytes:
        """Return the encoded image of a row; safe to call from several threads."""
        ...

    def describe_row(self, row: int) -> str:
        """Return the file and the row, for error messages."""
        ...


class Origin(NamedTuple):
    """What is known about the files of a split; see `interfaces.DatasetIdentity`."""

    revision: str
    split: str
    """Name of the split in records."""
    content_sha256: str
    provenance: str | None


class SharedImage(NamedTuple):
    """An image that is part of two splits."""

    first: str
    first_row: int
    second: str
    second_row: int


def keyed_bits(*parts: str) -> np.random.Philox:
    """Return a bit generator seeded by `parts`; use `random_raw`, whose stream is stable across NumPy versions."""
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def open_split(name: str, split: str) -> LabeledImages:
    """Open the `train`, `val` or `test` split of a dataset.

    Column `id` is the id of the image, or its row number. Datasets with labels have `label`, the class of each row (a
    list of classes if the dataset is multi-label), and `label_index`, its number, if the source has numbers. Retrieval
    datasets have `captions`, all captions of each image. Datasets with captions have `image_sha256`.
    Segmentation datasets have `read_mask`.

    Raises:
        MissingDataset: the dataset is not on this machine; the message says how to get it.
        UserError: the name or the split does not exist, a file is damaged, or columns, counts or classes differ from
            the catalog.
    """
    row = dataset(name)
    if name == "digits":
        return _open_digits(row, _file_split(row, split))
    source, origin = _open_source(row, split)
    columns = source.columns()
    masks = columns.pop(row.mask, [])
    if row.labels:
        label = [columns[column] for column in row.labels]
        columns["label"] = label[0] if len(label) == 1 else [" / ".join(values) for values in zip(*label)]
    if row.caption_list:
        columns["captions"] = columns[row.caption_list] = [_captions(cell) for cell in columns[row.caption_list]]
        if few := [at for at, texts in enumerate(columns["captions"]) if len(texts) < MIN_CAPTIONS]:
            found = len(columns["captions"][few[0]])
            raise UserError(f"{source.describe_row(few[0])} has {found} captions, expected {MIN_CAPTIONS} or more")
    if row.caption_choices or row.caption_list:
        columns[IMAGE_SHA256] = _image_hashes(source, columns.get("id") if row.kind == FILES else None)
    images = _labeled_images(row, split, origin, columns, lambda at: _read_image(source, at))
    if not row.mask:
        return images

    def mask(at: int) -> np.ndarray:
        return read_mask(row, masks[at], source.image_bytes(at), source.describe_row(at))

    return replace(images, read_mask=mask)


def _captions(cell: str | list[str]) -> list[str]:
    """Return the captions in a cell, without blank ones: a list of texts, or a text with one caption per line."""
    lines = cell.splitlines() if isinstance(cell, str) else cell
    return [line.strip() for line in lines if line.strip()]


def local_revision(name: str) -> str | None:
    """Return the revision of a dataset on this machine; None if it is missing or part of a Python package."""
    row = dataset(name)
    try:
        if row.kind == FILES:
            return OriginalSplit(row, row.test).revision
        return locate(row)[1] if row.kind != PACKAGE else None
    except MissingDataset:
        return None


def local_origins(name: str, splits: Iterable[str]) -> dict[str, Origin] | None:
    """Return split -> what is known about its files on this machine; None if the dataset is missing.

    Raises:
        UserError: see `open_split`.
    """
    row = dataset(name)
    try:
        return {split: _digits_origin(split) if name == "digits" else _open_source(row, split)[1] for split in splits}
    except MissingDataset:
        return None


def overlap(name: str) -> list[SharedImage]:
    """Return the images that are in more than one split, compared by ids, or without ids by their encoded bytes.

    Raises:
        MissingDataset, UserError: see `open_split`.
    """
    row, keys = dataset(name), {}
    for split in row.splits:
        if row.id or row.kind in (FILES, PACKAGE):
            keys[split] = open_split(name, split).columns["id"]
        else:
            keys[split] = _image_hashes(_open_source(row, split)[0])
    found = []
    for first, second in itertools.combinations(keys, 2):
        row_of = {key: at for at, key in enumerate(keys[first])}
        found += [SharedImage(first, row_of[key], second, at) for at, key in enumerate(keys[second]) if key in row_of]
    return found


def _file_split(row: Dataset, split: str) -> str:
    """Return the name of a split in the files.

    Raises:
        UserError: the dataset has no such split.
    """
    if split not in row.splits:
        raise UserError(f"dataset {row.name} has no {split} split; it has {', '.join(row.splits)}")
    return row.splits[split]


def _open_source(row: Dataset, split: str) -> tuple[SplitSource, Origin]:
    """Return the reader of a split and what is known about its files."""
    part = _file_split(row, split)
    if row.kind == FILES:
        original = OriginalSplit(row, part)
        _check_row_count(original, row, row.rows[part])
        sha256 = listing_sha256(original.folder, f"{row.name}-{split}", original.files)
        return original, Origin(original.revision, part, sha256, None)
    folder, revision, rows = locate(row)
    tars = row.kind == TARS and not next((folder / "data").glob(f"{part}-*.parquet"), None)
    source: TarSplit | ParquetSplit
    if tars:
        source = TarSplit(folder / row.folder, part, row)
    else:  # the Hub may have converted tars to Parquet, with the same columns
        source = ParquetSplit(folder / ("data" if row.kind == TARS else row.folder), part, row)
    _check_row_count(source, row, rows.get(part))
    sums = content.checksums(folder, source.files)
    return source, Origin(revision, recorded_split(row, part), sha256_json(sums), content.provenance(folder, row, sums))


def recorded_split(row: Dataset, part: str) -> str:
    """Return the name in records of a split, which is `part` in the files."""
    return part if row.folder in ("", "data") else f"{row.folder}/{part}"


def _check_row_count(source: SplitSource, row: Dataset, expected: int | None) -> None:
    if source.n != expected:
        raise UserError(
            f"{source.location} has {source.n} rows, expected {expected} for dataset {row.name} at revision "
            f"{row.revision or 'as built'}; download or rebuild the dataset"
        )


def _image_hashes(source: SplitSource, ids: list[str] | None = None) -> list[str]:
    """Return the sha256 of the encoded image of every row; rows with the same id are read once."""
    known: dict[str, str] = {}
    found = []
    for row in range(source.n):
        key = ids[row] if ids else str(row)
        if key not in known:
            known[key] = hashlib.sha256(source.image_bytes(row)).hexdigest()
        found.append(known[key])
    return found


def _read_image(source: SplitSource, row: int) -> np.ndarray:
    """Return the decoded image, uint8 RGB (H, W, 3)."""
    try:
        return decode_image(source.image_bytes(row))
    except DecodeError as error:
        raise UserError(
            f"{source.describe_row(row)}: the image cannot be read ({error}); download or rebuild the dataset"
        ) from None


def _labeled_images(
    row: Dataset, split: str, origin: Origin, columns: dict[str, list[Any]], read: Callable[[int], np.ndarray]
) -> LabeledImages:
    """Check the number of classes and return the split with its identity.

    Args:
        row: Row of the catalog.
        split: Name of the split in the catalog.
        origin: What is known about its files.
        columns: Columns of the split; `id` is added if missing.
        read: Function that decodes the image of a row.
    """
    n = len(next(iter(columns.values())))
    if row.classes:
        labels = columns["label"]
        found = set(itertools.chain.from_iterable(labels)) if row.multi_label else set(labels)
        if len(found) != row.classes:
            raise UserError(
                f"split {origin.split} of dataset {row.name} has {len(found)} classes, the catalog has {row.classes}"
                f"{_missing_classes(row, found)}; download or rebuild the dataset"
            )
    columns.setdefault("id", list(range(n)))
    hashed = ("label", *row.caption_choices, row.caption_list, *row.box, row.group, FILE_SIZE)
    values = [columns[column] for column in hashed if column in columns]
    ids_sha256 = sha256_json([columns["id"], *values])
    identity = DatasetIdentity(
        row.repo, origin.revision, origin.split, n, ids_sha256, {split: origin.content_sha256}, origin.provenance
    )
    return LabeledImages(row.name, identity, read, columns)


def _missing_classes(row: Dataset, found: set[str]) -> str:
    """Return the names of the classes without an image, as text for an error, if the names are known."""
    names = [" / ".join(parts) for parts in itertools.product(*(row.names.get(label, ()) for label in row.labels))]
    names = names or [str(label) for label in range(row.classes or 0)] * all(label.isdigit() for label in found)
    missing = [name for name in names if name not in found]
    return f" (without an image: {', '.join(missing[:5])})" if missing else ""


def _open_digits(row: Dataset, split: str) -> LabeledImages:
    """Open a split of scikit-learn's 1,797 8 x 8 digits (Alpaydin and Kaynak, 1998); the split is fixed."""
    from sklearn.datasets import load_digits

    source = load_digits()
    order = np.argsort(keyed_bits("digits").random_raw(len(source.target)), kind="stable")
    chosen = order[: row.rows["train"]] if split == "train" else order[row.rows["train"] :]
    gray_NHW = np.round(source.images * (255 / 16)).astype(np.uint8)  # values are 0 to 16

    def read(at: int) -> np.ndarray:
        return np.repeat(gray_NHW[chosen[at]][:, :, None], 3, axis=2)

    columns: dict[str, list[Any]] = {
        "id": [int(at) for at in chosen],
        "label": [str(source.target[at]) for at in chosen],
        "label_index": [int(source.target[at]) for at in chosen],
    }
    return _labeled_images(row, split, _digits_origin(split), columns, read)


def _digits_origin(split: str) -> Origin:
    """Return the origin of a split of the digits; both splits have the hash of the whole dataset."""
    from sklearn.datasets import load_digits

    source = load_digits()
    digest = hashlib.sha256(source.images.tobytes() + source.target.astype(np.int64).tobytes()).hexdigest()
    return Origin(digest[:40], split, digest, None)
