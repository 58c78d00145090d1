"""How a split of a labelled dataset is opened; `benchmark.evaluations.datasets.catalog` has the datasets.

Images stay encoded until they are read. Whatever is not as the catalogue says (columns, counts, classes) is an error:
a number that was measured on something else looks like any other.
"""

import hashlib
import io
import itertools
import re
import struct
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from benchmark.errors import MissingDataset, UserError
from benchmark.evaluations.datasets.catalog import FILES, PACKAGE, TARS, Dataset, dataset, locate
from benchmark.evaluations.datasets.originals import BYTES, Files
from benchmark.evaluations.datasets.parquet import Shards
from benchmark.evaluations.datasets.tars import Tars
from benchmark.files import sha256_json
from benchmark.interfaces import DatasetIdentity, LabelledImages

IMAGE_SHA256 = "image_sha256"
"""Column of sets with captions: sha256 of the encoded image, which many rows share."""
CAPTIONS = 5
"""An image of a retrieval set has that many at least."""


class Source(Protocol):
    """A split as it lies on the disk."""

    place: str
    n: int

    def columns(self) -> dict[str, list[Any]]:
        """Name -> N values."""
        ...

    def encoded(self, row: int) -> bytes:
        """The image of a row; safe to call from several threads."""
        ...

    def where(self, row: int) -> str:
        """File and row, for errors."""
        ...


class Shared(NamedTuple):
    """An image that two splits have."""

    first: str
    first_row: int
    second: str
    second_row: int


def keyed_bits(*parts: str) -> np.random.Philox:
    """Random bits fixed by `parts` alone; take `random_raw`, whose stream NumPy never changes."""
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def open_split(name: str, split: str) -> LabelledImages:
    """The `train`, `val` or `test` split of a dataset.

    Column `id` is the image's id, or its row; with labels, `label` is the class of each row (a list of them where the
    dataset is multi-label) and `label_index` its number, where the source has numbers; `captions` are all captions of
    an image of a retrieval set; sets with captions have `image_sha256`.

    Raises:
        MissingDataset: it is not on this machine; the message says how to get it.
        UserError: unknown name or split, or the files are not what the row says (columns, counts, classes, whole
            files).
    """
    row = dataset(name)
    if name == "digits":
        return _digits(row, _part(row, split))
    source, revision, part = _source(row, split)
    columns = source.columns()
    if row.labels:
        label = [columns[column] for column in row.labels]
        columns["label"] = label[0] if len(label) == 1 else [" / ".join(values) for values in zip(*label)]
    if row.caption_list:
        columns["captions"] = columns[row.caption_list]
        if few := [at for at, texts in enumerate(columns["captions"]) if len(texts) < CAPTIONS]:
            found = len(columns["captions"][few[0]])
            raise UserError(f"{source.where(few[0])} has {found} captions, wanted {CAPTIONS} or more")
    if row.caption_choices or row.caption_list:
        columns[IMAGE_SHA256] = _sha256_of_rows(source, columns.get("id") if row.kind == FILES else None)
    return _labelled(row, revision, part, columns, lambda at: _decoded(source, at))


def present(name: str) -> str | None:
    """The revision of a dataset on this machine; None where it is not here, or comes with a package."""
    row = dataset(name)
    try:
        if row.kind == FILES:
            return Files(row, row.test).revision
        return locate(row)[1] if row.kind != PACKAGE else None
    except MissingDataset:
        return None


def overlap(name: str) -> list[Shared]:
    """Images that more than one split of a dataset has: by their ids, or where it has none by the encoded bytes.

    Raises:
        MissingDataset, UserError: as `open_split`.
    """
    row, keys = dataset(name), {}
    for split in row.splits:
        if row.id or row.kind in (FILES, PACKAGE):
            keys[split] = open_split(name, split).columns["id"]
        else:
            keys[split] = _sha256_of_rows(_source(row, split)[0])
    found = []
    for first, second in itertools.combinations(keys, 2):
        place = {key: at for at, key in enumerate(keys[first])}
        found += [Shared(first, place[key], second, at) for at, key in enumerate(keys[second]) if key in place]
    return found


def _part(row: Dataset, split: str) -> str:
    """What the files of a split are named."""
    if split not in row.splits:
        raise UserError(f"dataset {row.name} has no {split} split; it has {', '.join(row.splits)}")
    return row.splits[split]


def _source(row: Dataset, split: str) -> tuple[Source, str, str]:
    """The files of a split, their revision, and the name of the split in records."""
    part = _part(row, split)
    if row.kind == FILES:
        files = Files(row, part)
        return _counted(files, row, row.rows[part]), files.revision, part
    folder, revision, rows = locate(row)
    tars = row.kind == TARS and not next((folder / "data").glob(f"{part}-*.parquet"), None)
    source: Source = Tars(folder / row.folder, part, row) if tars else Shards(_data(row, folder), part, row)
    named = part if row.folder in ("", "data") else f"{row.folder}/{part}"
    return _counted(source, row, rows.get(part)), revision, named


def _data(row: Dataset, folder: Any) -> Any:
    """Folder of the Parquet files; the Hub may hold a set of tars converted, with the same columns."""
    return folder / ("data" if row.kind == TARS else row.folder)


def _counted(source: Source, row: Dataset, wanted: int | None) -> Source:
    if source.n != wanted:
        raise UserError(
            f"{source.place} holds {source.n} rows, dataset {row.name} at revision {row.revision or 'as built'} has "
            f"{wanted}; get the folder again"
        )
    return source


def _sha256_of_rows(source: Source, ids: list[str] | None = None) -> list[str]:
    """sha256 of the encoded image of every row; rows with the same id are read once."""
    known: dict[str, str] = {}
    found = []
    for row in range(source.n):
        key = ids[row] if ids else str(row)
        if key not in known:
            known[key] = hashlib.sha256(source.encoded(row)).hexdigest()
        found.append(known[key])
    return found


def _decoded(source: Source, row: int) -> np.ndarray:
    """uint8 RGB (H, W, 3)."""
    content = source.encoded(row)
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        said = re.sub(r" <_io\S+ object at \w+>", "", str(error))
        raise UserError(f"{source.where(row)}: the image cannot be read ({said}); get the folder again") from None


def _labelled(row: Dataset, revision: str, split: str, columns: dict[str, list[Any]], read: Any) -> LabelledImages:
    n = len(next(iter(columns.values())))
    if row.classes:
        labels = columns["label"]
        found = set(itertools.chain.from_iterable(labels)) if row.multi_label else set(labels)
        if len(found) != row.classes:
            raise UserError(
                f"split {split} of dataset {row.name} has {len(found)} classes, the catalogue says {row.classes}"
                f"{_absent(row, found)}; get the folder again"
            )
    columns.setdefault("id", list(range(n)))
    named = ("label", *row.caption_choices, row.caption_list, *row.box, row.group, BYTES)
    values = [columns[column] for column in named if column in columns]
    ids_sha256 = sha256_json([columns["id"], *values])
    identity = DatasetIdentity(row.repo, revision, split, n, ids_sha256)
    return LabelledImages(row.name, identity, read, columns)


def _absent(row: Dataset, found: set[str]) -> str:
    """The classes without an image, where the catalogue or the numbers say their names."""
    names = [" / ".join(parts) for parts in itertools.product(*(row.names.get(label, ()) for label in row.labels))]
    names = names or [str(label) for label in range(row.classes or 0)] * all(label.isdigit() for label in found)
    absent = [name for name in names if name not in found]
    return f" (without an image: {', '.join(absent[:5])})" if absent else ""


def _digits(row: Dataset, split: str) -> LabelledImages:
    """The 1,797 real 8 x 8 digits of scikit-learn (Alpaydin and Kaynak, 1998), divided once for all."""
    from sklearn.datasets import load_digits

    source = load_digits()
    revision = hashlib.sha256(source.images.tobytes() + source.target.astype(np.int64).tobytes()).hexdigest()[:40]
    order = np.argsort(keyed_bits("digits").random_raw(len(source.target)), kind="stable")
    chosen = order[: row.rows["train"]] if split == "train" else order[row.rows["train"] :]
    grey_NHW = np.round(source.images * (255 / 16)).astype(np.uint8)  # values are 0 to 16

    def read(at: int) -> np.ndarray:
        return np.repeat(grey_NHW[chosen[at]][:, :, None], 3, axis=2)

    columns: dict[str, list[Any]] = {
        "id": [int(at) for at in chosen],
        "label": [str(source.target[at]) for at in chosen],
        "label_index": [int(source.target[at]) for at in chosen],
    }
    return _labelled(row, revision, split, columns, read)
