"""How well images fit their captions, by any CLIP model, with the captions that the images fit worst.

The score is CLIPScore (Hessel et al., arXiv 2104.08718) in the variant 100 max(cos, 0): the paper has 2.5 in the place
of 100, and sets "A photo depicts" before a caption; here captions stand as they are.

What a generator ignores is thereby seen, as in Figure 7 of StableRep (arXiv 2306.00984): give `worst` to `sheet.write`.
"""

import difflib
import heapq
import io
import logging
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import atomic_replace
from benchmark.progress import Progress
from datasets_scripts.inspection.examine import Row, is_caption_dataset, rows_of

FILE = "alignment.parquet"
COLUMNS = pa.schema({schema.CAPTION_ID: pa.int64(), "scores": pa.list_(pa.float32()), "model": pa.string()})
"""A row per caption, in the dataset's order; the score of an image that was not drawn is null."""
CHANCE = 95
"""Percentile of the scores of images beside the next caption, in place of their own, that counts as chance."""
STEPS = 100
"""Steps of one point in which scores are counted for the percentile."""


@dataclass(frozen=True)
class Alignment:
    """Scores of a dataset."""

    model: str
    images: int
    mean: float
    chance: float
    """What 95 of 100 images do not reach beside the next caption of their work unit."""
    below_chance: float
    """Share of images that do not reach it beside their own caption."""
    worst: list[tuple[float, Row]]
    """Mean score of a caption's images, and its row; the worst first."""


def alignment(
    folder: Path, model: str, pretrained: str | None, device: str, batch: int, progress: Progress, worst: int = 10
) -> Alignment:
    """Score every image of a dataset beside its caption, and write `alignment.parquet` into the folder.

    Args:
        folder: a finished dataset of a recipe.
        model: an architecture of open_clip, or hf-hub:ORG/NAME, which has weights of its own.
        pretrained: the weights: a tag of open_clip or a file.
        device: such as "cuda".
        batch: images that are encoded together.
        progress: told progress.
        worst: how many captions are returned.

    Raises:
        UserError: not such a dataset; no such model, or its weights are not to be had.
    """
    manifest = schema.read_manifest(folder)
    if not is_caption_dataset(manifest):
        raise UserError(
            f"{folder} has labelled images; alignment is of a dataset with captions that images were drawn for"
        )
    score = _Scorer(model, pretrained, device, batch)
    total, done = sum(manifest.rows.values()), 0
    counts = np.zeros((2, 100 * STEPS + 1), np.int64)
    ranked: list[tuple[float, int, Row]] = []
    mean = 0.0
    with atomic_replace(folder / FILE) as temporary, pq.ParquetWriter(temporary, COLUMNS) as writer:
        for rows in _units(folder, manifest):
            own, other = score(rows)
            ids = [row[schema.CAPTION_ID] for row in rows]
            writer.write_table(pa.table([ids, own, [score.name] * len(rows)], schema=COLUMNS))
            for kind, values in enumerate((own, other)):
                drawn = np.array([value for scores in values for value in scores if value is not None])
                counts[kind] += np.bincount(np.floor(drawn * STEPS).astype(int), minlength=counts.shape[1])
            for row, scores in zip(rows, own):
                drawn = np.array([value for value in scores if value is not None])
                mean += drawn.sum()
                if len(drawn):
                    heapq.heappush(ranked, (-float(drawn.mean()), -done, row))
                done += 1
            while len(ranked) > worst:
                heapq.heappop(ranked)
            progress(done, total, "")
    images = int(counts[0].sum())
    if not images:
        raise UserError(f"{folder} has no image that was drawn")
    reached = int(np.searchsorted(np.cumsum(counts[1]), counts[1].sum() * CHANCE / 100))
    below = float(counts[0][:reached].sum() / images)
    listed = [(-negative, row) for negative, _, row in sorted(ranked, key=lambda each: each[:2], reverse=True)]
    return Alignment(score.name, images, float(mean / images), reached / STEPS, below, listed)


def _units(folder: Path, manifest: schema.Manifest) -> Iterator[list[Row]]:
    for name in sorted(name for name in manifest.files if name.endswith(".parquet")):
        rows: list[Row] = []
        for row in rows_of(pq.ParquetFile(folder / name)):
            rows.append(row)
            if len(rows) == schema.UNIT_CAPTIONS:
                yield rows
                rows = []
        if rows:
            yield rows


def check_name(model: str, pretrained: str | None) -> None:
    """Whether open_clip knows the model and its weights, before anything is loaded.

    Raises:
        UserError: it does not; says which there are.
    """
    import open_clip

    known = open_clip.list_models()
    if ":" in model:
        return
    if model not in known:
        near = ", ".join(difflib.get_close_matches(model, known, 5, 0.3))
        raise UserError(f"unknown CLIP model {model!r}; wanted MODEL/WEIGHTS, of {len(known)} models near is: {near}")
    if pretrained is None or not (Path(pretrained).is_file() or _tagged(model, pretrained)):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise UserError(f"unknown weights {pretrained!r} of CLIP model {model}; choose a file or one of: {tags}")


class _Scorer:
    """A CLIP model on a device."""

    def __init__(self, model: str, pretrained: str | None, device: str, batch: int) -> None:
        import open_clip

        check_name(model, pretrained)
        pretrained = None if ":" in model else pretrained
        self.name = f"{model}/{Path(pretrained).name}" if pretrained else model
        self.device, self.batch = device, batch
        before = logging.root.manager.disable
        logging.disable()  # the Hub's client reports every retry, open_clip every failure
        try:
            self.model, _, self.preprocess = open_clip.create_model_and_transforms(
                model, pretrained=pretrained, device=device
            )
            self.tokenizer = open_clip.get_tokenizer(model)
        except Exception as error:  # of open_clip, torch, the Hub's client and its network
            reason = textwrap.shorten(" ".join(str(error).split()), 200, placeholder=" ...")
            raise UserError(
                f"cannot load CLIP model {self.name} on {device} ({reason}); without a network give MODEL/FILE"
            ) from error
        finally:
            logging.disable(before)
        self.model.eval()

    def __call__(self, rows: list[Row]) -> tuple[list[list[float | None]], list[list[float | None]]]:
        """Scores of every image of `rows` beside its caption, and beside the next one."""
        import torch

        places = [(r, k) for r, row in enumerate(rows) for k, image in enumerate(row[schema.IMAGES]) if image]
        with torch.inference_mode():
            texts = self.tokenizer([row[schema.CAPTION] for row in rows]).to(self.device)
            texts_CD = self.model.encode_text(texts, normalize=True).float()
            images_BD = []
            for start in range(0, len(places), self.batch):
                chosen = [rows[r][schema.IMAGES][k]["bytes"] for r, k in places[start : start + self.batch]]
                images_B3HW = torch.stack([self.preprocess(Image.open(io.BytesIO(each))) for each in chosen])
                images_BD.append(self.model.encode_image(images_B3HW.to(self.device), normalize=True).float())
            cosine_BC = torch.cat(images_BD) @ texts_CD.T if images_BD else texts_CD.new_zeros(0, len(rows))
        scores_BC = (100 * cosine_BC.clamp(0, 1)).cpu().numpy()
        own: list[list[float | None]] = [[None] * len(row[schema.IMAGES]) for row in rows]
        other: list[list[float | None]] = [[None] * len(row[schema.IMAGES]) for row in rows]
        for (r, k), scores_C in zip(places, scores_BC):
            own[r][k] = float(scores_C[r])
            if len(rows) > 1:
                other[r][k] = float(scores_C[(r + 1) % len(rows)])
        return own, other


def _tagged(model: str, pretrained: str) -> Any:
    import open_clip

    return open_clip.get_pretrained_cfg(model, pretrained)
