"""Evaluation sets of the scenes, in the column layouts of the real datasets.

    scenes-objects      one object: caption and every attribute as a label    (linear probe, few-shot)
    scenes-pairs        two objects and their relation                        (linear probe)
    scenes-groups       seven colors x two sizes, like FairFace's 14 groups   (zero-shot recalls)
    scenes-relation     box, true and false caption: objects swapped          (like ARO's VG-Relation)
    scenes-attribution  box, true and false caption: colors swapped           (like ARO's VG-Attribution)
    scenes-order        a caption and four shuffles of its words              (like ARO's COCO-Order)
    scenes-masks        the class of each pixel: six backgrounds, eight shapes (semantic segmentation)

Image seeds are hashes of dataset, split and row, so no evaluation image occurs in training or in another split.
"""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmark import schema
from benchmark.files import file_sha256
from benchmark.hub import cards
from datasets_scripts.building.build import claim_folder
from datasets_scripts.generation import provenance, shards
from datasets_scripts.generation.generate import IMAGE, encode
from datasets_scripts.recipe import revision_of, seed_of
from datasets_scripts.scenes import grammar, renderer

VERSION = 1
"""Version of the sets. Increase it whenever any row changes."""

PROBE = {"train": 3000, "test": 3000}
"""Split -> rows of scenes-objects and scenes-pairs."""
GROUP_COLOURS = tuple(grammar.COLOURS)[:7]
GROUP_IMAGES = 150
"""Images of each group in scenes-groups."""
ARO_IMAGES = 1000
"""Rows of scenes-relation, scenes-attribution and scenes-order."""

MASKS = {"train": 1000, "test": 600}
"""Split -> rows of scenes-masks."""
MASK_CLASSES = (*grammar.BACKGROUNDS, *grammar.SHAPES)
INSIDE, OUTSIDE, UNCLEAR = 0.9, 0.1, 255
"""Coverage from which a pixel belongs to an object, up to which it belongs to the background, and the label between."""

Row = dict[str, Any]


def _rng(*parts: object) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed_of("captions", *parts)))


def _row(name: str, split: str, number: int, scene: grammar.Scene) -> tuple[Row, renderer.Rendering]:
    """Render a scene; return its row (id, image, caption) and the rendering."""
    rendering = renderer.render(scene.caption, seed_of(name, split, number))
    image = {"bytes": encode(rendering.image, provenance.ALGORITHMIC), "path": f"{split}-{number:05d}.jpg"}
    return {"id": f"{split}-{number:05d}", "image": image, "caption": scene.caption}, rendering


def objects(name: str) -> dict[str, list[Row]]:
    """Return rows with one object, sampled uniformly. Its attributes and the background are labels."""
    splits: dict[str, list[Row]] = {}
    for split, count in PROBE.items():
        scenes = [grammar.scene(int(i)) for i in _rng(name, split).integers(0, grammar.SINGLES, count)]
        splits[split] = [
            _row(name, split, number, scene)[0] | vars(scene.first) | {"background": scene.background}
            for number, scene in enumerate(scenes)
        ]
    return splits


def pairs(name: str) -> dict[str, list[Row]]:
    """Return rows with two objects, sampled uniformly. The relation is the label."""
    splits: dict[str, list[Row]] = {}
    for split, count in PROBE.items():
        splits[split] = [
            _row(name, split, number, scene)[0] | {"relation": scene.relation}
            for number, scene in enumerate(_two_objects(_rng(name, split), count))
        ]
    return splits


def _two_objects(rng: np.random.Generator, count: int) -> list[grammar.Scene]:
    return [grammar.scene(int(i)) for i in rng.integers(grammar.SINGLES, grammar.CAPTIONS, count)]


def groups(name: str) -> dict[str, list[Row]]:
    """Return rows of 14 groups (color x size) of equal size. Texture, shape and background vary within each group."""
    rng = _rng(name)
    rows: list[Row] = []
    for colour in GROUP_COLOURS:
        for size in grammar.SIZES:
            for _ in range(GROUP_IMAGES):
                texture, shape, background = (
                    str(rng.choice(words)) for words in (grammar.TEXTURES, grammar.SHAPES, grammar.BACKGROUNDS)
                )
                scene = grammar.Scene(grammar.Object(size, colour, texture, shape), None, None, background)
                rows.append(_row(name, "test", len(rows), scene)[0] | {"colour": colour, "size": size})
    return {"test": rows}


def relation(name: str) -> dict[str, list[Row]]:
    """Return rows whose false caption has the two objects swapped."""
    rows = []
    for number, scene in enumerate(_two_objects(_rng(name), ARO_IMAGES)):
        row, rendering = _row(name, "test", number, scene)
        captions = {"true_caption": row.pop("caption"), "false_caption": scene.swapped().caption}
        rows.append(row | _box(rendering) | captions | {"relation_name": scene.relation})
    return {"test": rows}


def attribution(name: str) -> dict[str, list[Row]]:
    """Return rows whose false caption has the two colors swapped. Scenes with two equal colors are skipped."""
    scenes = [s for s in _two_objects(_rng(name), 2 * ARO_IMAGES) if s.second and s.first.colour != s.second.colour]
    rows = []
    for number, scene in enumerate(scenes[:ARO_IMAGES]):
        assert scene.second is not None
        row, rendering = _row(name, "test", number, scene)
        colours = scene.first.colour, scene.second.colour
        false = replace(
            scene, first=replace(scene.first, colour=colours[1]), second=replace(scene.second, colour=colours[0])
        )
        captions = {"true_caption": row.pop("caption"), "false_caption": false.caption}
        rows.append(row | _box(rendering) | captions | {"attributes": f"{colours[0]}|{colours[1]}"})
    return {"test": rows}


def _box(rendering: renderer.Rendering) -> Row:
    """Return the bounding box of all objects with a margin of two pixels, clipped to the image."""
    left, top = np.maximum(rendering.boxes[:, :2].min(0) - 2, 0).tolist()
    right, bottom = np.minimum((rendering.boxes[:, :2] + rendering.boxes[:, 2:]).max(0) + 2, grammar.SIZE).tolist()
    return {"bbox_x": left, "bbox_y": top, "bbox_w": right - left, "bbox_h": bottom - top}


def order(name: str) -> dict[str, list[Row]]:
    """Return rows with a caption of two objects and ARO's four shuffles of its words, all five distinct."""
    rng = _rng(name)
    rows = []
    for number, scene in enumerate(_two_objects(rng, ARO_IMAGES)):
        row, _ = _row(name, "test", number, scene)
        true = row.pop("caption")
        texts = [true]
        for shuffle in (_shuffle_content, _shuffle_function, _shuffle_in_trigrams, _shuffle_trigrams):
            while (text := " ".join(shuffle(true.split(), rng))) in texts:
                pass
            texts.append(text)
        rows.append(row | {"correct_caption": true} | {f"hard_text_{k}": text for k, text in enumerate(texts) if k})
    return {"test": rows}


_NOUNS = {*grammar.SHAPES, "wall", "grass", "sand", "water", "sky"}
_ADJECTIVES = {*grammar.SIZES, *grammar.COLOURS, *grammar.TEXTURES, "brick", "night"}


def _shuffle_positions(words: list[str], positions: list[int], rng: np.random.Generator) -> list[str]:
    """Shuffle the words at `positions` among themselves."""
    shuffled = list(words)
    for position, source in zip(positions, rng.permutation(positions)):
        shuffled[position] = words[source]
    return shuffled


def _shuffle_content(words: list[str], rng: np.random.Generator) -> list[str]:
    """Shuffle nouns among nouns and adjectives among adjectives."""
    for kind in (_NOUNS, _ADJECTIVES):
        words = _shuffle_positions(words, [i for i, word in enumerate(words) if word in kind], rng)
    return words


def _shuffle_function(words: list[str], rng: np.random.Generator) -> list[str]:
    """Shuffle all words except nouns and adjectives."""
    return _shuffle_positions(words, [i for i, word in enumerate(words) if word not in _NOUNS | _ADJECTIVES], rng)


def _shuffle_in_trigrams(words: list[str], rng: np.random.Generator) -> list[str]:
    """Shuffle the words within each trigram."""
    return [w for start in range(0, len(words), 3) for w in rng.permutation(words[start : start + 3]).tolist()]


def _shuffle_trigrams(words: list[str], rng: np.random.Generator) -> list[str]:
    """Shuffle the order of the trigrams."""
    trigrams = [words[start : start + 3] for start in range(0, len(words), 3)]
    return [word for index in rng.permutation(len(trigrams)) for word in trigrams[index]]


def masks(name: str) -> dict[str, list[Row]]:
    """Return rows with one object or two, alternating, and the class of each pixel as a PNG."""
    splits: dict[str, list[Row]] = {}
    for split, count in MASKS.items():
        rng, rows = _rng(name, split), []
        for number in range(count):
            first, last = ((0, grammar.SINGLES), (grammar.SINGLES, grammar.CAPTIONS))[number % 2]
            scene = grammar.scene(int(rng.integers(first, last)))
            row, rendering = _row(name, split, number, scene)
            buffer = io.BytesIO()
            Image.fromarray(_classes(scene, rendering.masks)).save(buffer, "PNG")
            rows.append(row | {"mask": {"bytes": buffer.getvalue(), "path": f"{row['id']}.png"}})
        splits[split] = rows
    return splits


def _classes(scene: grammar.Scene, masks: np.ndarray) -> np.ndarray:
    """Return the index in `MASK_CLASSES` of each pixel, uint8; pixels on the edge of an object are `UNCLEAR`."""
    found = np.full(masks.shape[1:], MASK_CLASSES.index(scene.background), np.uint8)
    for thing, coverage in zip(scene.objects, masks, strict=True):
        found[coverage > OUTSIDE] = UNCLEAR
        found[coverage >= INSIDE] = MASK_CLASSES.index(thing.shape)
    return found


SETS: dict[str, Callable[[str], dict[str, list[Row]]]] = {
    "scenes-objects": objects,
    "scenes-pairs": pairs,
    "scenes-groups": groups,
    "scenes-relation": relation,
    "scenes-attribution": attribution,
    "scenes-order": order,
    "scenes-masks": masks,
}
"""Dataset name -> function that returns the rows of each split."""


def declaration(name: str) -> dict[str, Any]:
    """Return what determines the rows of a set."""
    sizes = {"masks": MASKS} if name == "scenes-masks" else {"probe": PROBE, "group": GROUP_IMAGES, "aro": ARO_IMAGES}
    return {"name": name, "version": VERSION, "world": grammar.VERSION, "images": sizes}


def build(data: Path, progress: Callable[[int, int], None]) -> list[Path]:
    """Build all evaluation sets in the folder `data` and return their folders. Finished sets are kept.

    `progress` is called with the number of finished sets and the total.

    Raises:
        UserError: a folder contains another version of its set, or cannot be written.
    """
    folders = []
    for done, (name, make_rows) in enumerate(SETS.items()):
        progress(done, len(SETS))
        repo = f"synrep-bench/{name}"
        folder = data / repo
        declared = declaration(name)
        revision = revision_of(declared)
        folders.append(folder)
        if claim_folder(folder, revision, declared):
            continue
        splits = make_rows(name)
        for split, rows in splits.items():
            table = pa.Table.from_pylist(rows, schema=_columns(rows[0]))
            shards.write_parquet(folder / schema.shard_name(split, 0, 1), [table], table.schema)
        counts = {split: len(rows) for split, rows in splits.items()}
        files = {str(path.relative_to(folder)): file_sha256(path) for path in sorted(folder.glob("data/*.parquet"))}
        manifest = schema.Manifest(repo, revision, counts, 1, files, declared)
        shards.write_manifest(folder, manifest, _card(manifest))
    progress(len(SETS), len(SETS))
    return folders


def _card(manifest: schema.Manifest) -> str:
    splits = "\n".join(f"  - split: {split}\n    path: data/{split}-*.parquet" for split in sorted(manifest.rows))
    counts = ", ".join(f"{count:,} rows in {split}" for split, count in sorted(manifest.rows.items()))
    yaml = f"""configs:
- config_name: default
  data_files:
{splits}
license: apache-2.0
tags: [synthetic]"""
    text = f"""# {manifest.repo}

A rendered evaluation set of `scenes`, SynRep-Bench's toy dataset: {counts}. Revision `{manifest.revision}`.

    datasets.load_dataset("{manifest.repo}")
"""
    return cards.generated(yaml, text)


def _columns(row: Row) -> pa.Schema:
    kinds = {dict: IMAGE, str: pa.string(), int: pa.int64()}
    return pa.schema({name: kinds[type(value)] for name, value in row.items()})
