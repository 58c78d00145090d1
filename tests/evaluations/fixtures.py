"""A generated copy of every catalogued dataset: its layout, columns and classes, a few images of 8 x 8 pixels a class.

    root = fixtures.mirror_of(["cifar10", "flowers", "aro-vg-relation"], monkeypatch, tmp_path)
    images = open_split("flowers", "val")

`mirror_of` writes them and makes them the machine's only datasets; the catalogue's counts become those of the copies
(`shrunk`), and nothing else of it changes. Several tests may share what `write` wrote: each then calls `use`.
A class is a pattern of colours, an image the pattern with noise, so that a linear probe of the pixels gets nearly all
right. Captions name the pattern that is seen.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from benchmark.evaluations import _catalog
from benchmark.evaluations._catalog import FILES, PACKAGE, TARS, Dataset
from datasets_scripts import scenes, scenes_evaluation
from tests.evaluations.doubles import jpeg, png, write_manifest, write_split, write_tars
from tests.evaluations.pixels import SIZE, noisy, pattern

CATALOGUE = {row.name: row for row in _catalog.DATASETS.values()}
"""The real one, whatever a test has made of it."""
NAMES = tuple(CATALOGUE)
PER_CLASS = {"train": 3, "val": 2, "test": 2}
FEWER = {"train": 2, "val": 1, "test": 1}
"""Images of a class in each split; fewer where there are many classes."""
MANY = 300
CAPTIONED = 60
"""Rows of a set with captions, two an image: as many pairs of attributes as ARO's macro average asks for."""
TRUE = {"true_caption", "correct_caption", "caption"}
"""What the copies call the caption that is true, whatever the catalogue says."""
NAMED = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "voc2007-mteb": CATALOGUE["voc2007"].names["label"],
}
"""Hub sets whose files name their classes."""


def shrunk(row: Dataset, **per_class: int) -> Dataset:
    """The row with the counts of its generated copy; `train=20` is twenty images of each class in train."""
    if row.kind == PACKAGE or not row.rows:
        return row
    counts = (PER_CLASS if (row.classes or 0) < MANY else FEWER) | per_class
    each = {split: counts[split] * row.classes if row.classes else CAPTIONED for split in row.splits}
    return dataclasses.replace(row, rows={part: each[split] for split, part in row.splits.items()})


def mirror_of(names: Iterable[str], monkeypatch: pytest.MonkeyPatch, root: Path, **per_class: int) -> Path:
    """Write the copies into `root` and make it the machine's only place of datasets, for this test."""
    names = list(names)
    for name in names:
        write(name, root, **per_class)
    use(names, monkeypatch, root, **per_class)
    return root


def use(names: Iterable[str], monkeypatch: pytest.MonkeyPatch, root: Path, **per_class: int) -> None:
    """Make copies that lie in `root` the machine's only datasets, for this test."""
    (root / "nowhere").mkdir(exist_ok=True)
    monkeypatch.chdir(root / "nowhere")  # has no data/
    monkeypatch.setenv("SYNREP_DATA", str(root))
    for name in names:
        monkeypatch.setitem(_catalog.DATASETS, name, shrunk(CATALOGUE[name], **per_class))
    # Flowers has the checksums of its lists in torchvision, and these are others.
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda path, md5: Path(path).is_file())


def write(name: str, root: Path, **per_class: int) -> Path:
    """Write the copy of one dataset below `root`, where a mirror has it; returns its folder."""
    row = shrunk(CATALOGUE[name], **per_class)
    folder = root / row.repo
    if row.kind == FILES:
        ORIGINALS[name](folder, row)
    elif row.kind == TARS:
        _tars(folder, row)
    elif not row.rows and row.kind != PACKAGE:
        _scenes(folder, row, PER_CLASS | per_class)
    elif row.kind != PACKAGE:
        _parquet(folder, row)
    return folder


def classes_of(row: Dataset, at: int) -> list[int]:
    """Classes of image `at` of a multi-label set: one in order, and every third image a second one."""
    assert row.classes
    return sorted({at % row.classes, (at * 7 + 3) % row.classes} if at % 3 == 0 else {at % row.classes})


def several(row: Dataset, at: int) -> np.ndarray:
    """An image of a multi-label set: class k is a bright square in place k of a dark grid."""
    image = np.full((10, 8, 3), 40.0)
    for k in classes_of(row, at):
        image[2 * (k // 4) : 2 * (k // 4) + 2, 2 * (k % 4) : 2 * (k % 4) + 2] = 215
    return image


def seen(row: Dataset, split: str, at: int) -> np.ndarray:
    """Image `at` of a split whose classes go round."""
    assert row.classes
    image = several(row, at) if row.multi_label else pattern(f"class {at % row.classes}")
    return noisy(image, row.repo, row.folder, split, at)


def _parquet(folder: Path, row: Dataset) -> None:
    for split, part in row.splits.items():
        n = row.rows[part]
        if row.captions:
            images = [png(noisy(pattern(_thing(at // 2)), row.repo, at // 2)) for at in range(n)]
            columns, features = _captions(row, n), None
        elif row.names:
            images, columns, features = _faces(row, split, n)
        else:
            images = [png(seen(row, split, at)) for at in range(n)]
            (label,) = row.labels
            values = [classes_of(row, at) if row.multi_label else at % (row.classes or 1) for at in range(n)]
            columns, features = {label: values}, _classes(label, NAMED.get(row.name, ()))
        paths = write_split(
            folder / row.folder, part, images, columns, image=row.image, shards=2, group=50, features=features
        )
        if row.names:  # as that repository names its files
            for path in paths:
                path.rename(path.with_stem(f"{path.stem}-0123456789abcdef"))


def _classes(label: str, names: Sequence[str]) -> dict[str, Any]:
    """What `datasets` writes of a column of labels into the schema."""
    return {label: {"_type": "ClassLabel", "names": list(names)}} if names else {}


def _faces(row: Dataset, split: str, n: int) -> tuple[list[bytes], dict[str, list[Any]], dict[str, Any]]:
    races, genders = (row.names[label] for label in row.labels)
    race, gender = [at % len(races) for at in range(n)], [at // len(races) % len(genders) for at in range(n)]
    images = [
        jpeg(noisy(pattern(races[a], genders[b]), row.repo, row.folder, split, at))
        for at, (a, b) in enumerate(zip(race, gender))
    ]
    features = {key: value for label in row.labels for key, value in _classes(label, row.names[label]).items()}
    columns = {"age": [2] * n, "gender": gender, "race": race, "service_test": [True] * n}
    return images, columns, features


def _thing(number: int) -> str:
    return f"thing {number % 12}"


def _captions(row: Dataset, n: int) -> dict[str, list[Any]]:
    """Two true captions an image, and false ones that name other patterns."""
    true = [f"{'a photo of' if at % 2 else 'there is'} {_thing(at // 2)} number {at // 2}" for at in range(n)]
    false = [
        [f"{'a photo of' if at % 2 else 'there is'} {_thing(at // 2 + k)} number {at // 2}" for at in range(n)]
        for k in range(1, len(row.captions))
    ]
    (named,) = TRUE & set(row.captions)
    return {named: true, **dict(zip(sorted({*row.captions} - TRUE), false))}


def _tars(folder: Path, row: Dataset) -> None:
    for split, part in row.splits.items():
        samples = []
        for at in range(row.rows[part]):
            if row.texts:
                image = jpeg(noisy(pattern(_thing(at)), row.repo, split, at))
                lines = [f"{way} {_thing(at)} number {at} ." for way in ("a", "one", "the", "some", "this")]
                samples.append({"jpg": image, "txt": "\n".join(lines + ["a sixth caption ."] * (at == 1)).encode()})
            else:
                label = str(at % (row.classes or 1)).encode()
                samples.append({"cls": label, "jpg": jpeg(seen(row, split, at))})
        write_tars(folder, part, samples)


def _scenes(folder: Path, row: Dataset, counts: dict[str, int]) -> None:
    rows = {}
    for split, part in row.splits.items():
        images, columns = _scene_rows(folder.name, split, counts[split])
        write_split(folder / "data", part, images, columns, shards=2, group=50)
        rows[part] = len(images)
    write_manifest(folder, row.repo, rows)


def _scene_rows(name: str, split: str, count: int) -> tuple[list[bytes], dict[str, list[Any]]]:
    words: dict[str, list[str]]
    if name == "scenes-objects":
        kinds = [(colour, shape) for colour in scenes.COLOURS for shape in scenes.SHAPES] * count
        texture = [scenes.TEXTURES[at // 3 % 4] for at in range(len(kinds))]
        words = {"colour": [c for c, _ in kinds], "shape": [s for _, s in kinds], "texture": texture}
    elif name == "scenes-pairs":
        words = {"relation": list(scenes.RELATIONS) * count}
    elif name == "scenes-groups":
        groups = [(colour, size) for colour in scenes_evaluation.GROUP_COLOURS for size in scenes.SIZES] * count
        words = {"colour": [c for c, _ in groups], "size": [s for _, s in groups]}
    else:
        return _scene_captions(name)
    n = len(next(iter(words.values())))
    images = [png(noisy(pattern(*(words[key][at] for key in words)), name, split, at)) for at in range(n)]
    return images, {"id": [f"{split}-{at}" for at in range(n)], **words}


def _scene_captions(name: str) -> tuple[list[bytes], dict[str, list[Any]]]:
    row = next(row for row in CATALOGUE.values() if row.repo.endswith(f"/{name}"))
    group = {row.group: [["above", "left of"][at // 2 % 2] for at in range(CAPTIONED)]} if row.group else {}
    boxes = {side: [box[side] for box in map(_box, range(CAPTIONED))] for side in row.box}
    draw = _framed if row.box else lambda name, number: noisy(pattern(_thing(number)), name, number)
    images = [png(draw(name, at // 2)) for at in range(CAPTIONED)]
    return images, {**_captions(row, CAPTIONED), **group, **boxes}


def _box(at: int) -> dict[str, int]:
    return {"bbox_x": at // 2 % 5, "bbox_y": at // 2 % 7, "bbox_w": SIZE, "bbox_h": SIZE}


def _framed(name: str, number: int) -> np.ndarray:
    """A pattern in the box of its row, noise around it."""
    image = np.full((2 * SIZE, 2 * SIZE, 3), 128.0)
    x, y, width, height = _box(2 * number).values()
    image[y : y + height, x : x + width] = pattern(_thing(number))
    return noisy(image, name, number)


def _write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _rows(row: Dataset) -> list[tuple[str, int, int]]:
    """Split, row in it and number among all images (from 1), over all splits."""
    rows = [(part, at) for part in row.splits.values() for at in range(row.rows[part])]
    return [(part, at, number) for number, (part, at) in enumerate(rows, 1)]


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _listed(row: Dataset, image: Callable[[int, int], Path], line: Callable[[int, int], str]) -> dict[str, str]:
    """Write every image where `image(row in its split, number)` says; returns the list of each split."""
    lists: dict[str, list[str]] = {}
    for part, at, number in _rows(row):
        lists.setdefault(part, []).append(line(at, number))
        _write(image(at, number), jpeg(seen(row, part, at)))
    return {part: _lines(lines) for part, lines in lists.items()}


def _aircraft(folder: Path, row: Dataset) -> None:
    data, names = folder / "fgvc-aircraft-2013b" / "data", [f"Model {k}-100 /B" for k in range(100)]
    _write(data / "variants.txt", _lines(names))
    lists = _listed(row, lambda _, n: data / "images" / f"{n:07d}.jpg", lambda at, n: f"{n:07d} {names[at % 100]}")
    for part, lines in lists.items():
        _write(data / f"images_variant_{part}.txt", lines)


def _dtd(folder: Path, row: Dataset) -> None:
    def name(at: int, number: int) -> str:
        return f"texture{at % 47:02d}/texture{at % 47:02d}_{number:04d}.jpg"

    for part, lines in _listed(row, lambda *place: folder / "dtd" / "images" / name(*place), name).items():
        _write(folder / "dtd" / "labels" / f"{part}1.txt", lines)


def _flowers(folder: Path, row: Dataset) -> None:
    base, rows = folder / "flowers-102", _rows(row)
    for part, at, number in rows:
        _write(base / "jpg" / f"image_{number:05d}.jpg", jpeg(seen(row, part, at)))
    ids = {key: [number for part, _, number in rows if part == split] for split, key in _SET_IDS.items()}
    savemat(base / "setid.mat", {key: np.array([numbers]) for key, numbers in ids.items()})
    savemat(base / "imagelabels.mat", {"labels": np.array([[at % 102 + 1 for _, at, _ in rows]])})


def _sun397(folder: Path, row: Dataset) -> None:
    """Names of every kind: one that is part of another, and one with a place inside or outside."""
    names = sorted(["/b/bar", "/b/barn", "/b/barn/door", *(f"/c/class{k:03d}/indoor" for k in range(394))])

    def name(at: int, number: int) -> str:
        return f"{names[at % 397]}/sun_{number:016x}.jpg"

    _write(folder / "ClassName.txt", _lines(names))
    lists = _listed(row, lambda *place: folder / "SUN397" / name(*place).lstrip("/"), name)
    _write(folder / "Training_01.txt", lists["train"])
    _write(folder / "Testing_01.txt", lists["test"])


def _caltech101(folder: Path, row: Dataset) -> None:
    names = ["BACKGROUND_Google", "Faces", *(f"thing_{k:03d}" for k in range(100))]

    def name(at: int, number: int) -> str:
        return f"{names[at % 102]}/image_{number:04d}.jpg"

    images = folder / "101_ObjectCategories"
    lists = _listed(row, lambda *place: images / name(*place), lambda at, n: f"{name(at, n)} {at % 102}")
    for part, lines in lists.items():
        _write(folder / f"{part}.txt", lines)


def _voc2007(folder: Path, row: Dataset) -> None:
    """Each image also has an object of another class that is marked difficult."""
    base, names = folder / "VOCdevkit" / "VOC2007", row.names["label"]
    lists = _listed(row, lambda _, n: base / "JPEGImages" / f"{n:06d}.jpg", lambda _, n: f"{n:06d}")
    for part, images in lists.items():
        _write(base / "ImageSets" / "Main" / f"{part}.txt", images)
        rows = [(at, number) for other, at, number in _rows(row) if other == part]
        for k, name in enumerate(names):
            lines = []
            for at, number in rows:
                difficult = (at + 5) % 20 == k
                mark = 1 if k in classes_of(row, at) else 0 if difficult else -1
                lines.append(f"{number:06d} {mark:2d}")
            _write(base / "ImageSets" / "Main" / f"{name}_{part}.txt", _lines(lines))


def _visual_genome(folder: Path, row: Dataset) -> None:
    captions = _captions(row, CAPTIONED)
    kinds: dict[str, list[Any]] = {
        "relation_name": ["wearing", "next to"],
        "attributes": [["black", "old"], ["red", "wet"]],
    }
    entries = []
    for at in range(CAPTIONED):
        image = f"{2_300_000 + at // 2}.jpg"
        _write(folder / "images" / image, jpeg(_framed(row.repo, at // 2)))
        entry = {row.image: image, **_box(at), row.group: kinds[row.group][at // 2 % 2]}
        entries.append({**entry, **{name: texts[at] for name, texts in captions.items()}})
    file = {"relation_name": "visual_genome_relation.json", "attributes": "visual_genome_attribution.json"}[row.group]
    _write(folder / file, json.dumps(entries))


_SET_IDS = {"train": "trnid", "val": "valid", "test": "tstid"}
ORIGINALS: dict[str, Callable[[Path, Dataset], None]] = {
    "aircraft": _aircraft,
    "dtd": _dtd,
    "flowers": _flowers,
    "sun397": _sun397,
    "caltech101": _caltech101,
    "voc2007": _voc2007,
    "aro-vg-relation": _visual_genome,
    "aro-vg-attribution": _visual_genome,
}
"""Dataset of original files -> what writes its copy."""
