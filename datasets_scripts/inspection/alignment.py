"""Image-text alignment of a dataset by any CLIP model, and the captions with the lowest scores.

The score is CLIPScore (Hessel et al., arXiv 2104.08718) in the variant 100 max(cos, 0): the paper has 2.5 instead of
100, and prepends "A photo depicts" to a caption; here captions are unchanged.

`contact_sheet.write` renders the rows of `Alignment.worst`: they show which captions a generator ignores, as in
Figure 7 of StableRep (arXiv 2306.00984).
"""

import difflib
import heapq
import logging
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import atomic_replace
from benchmark.images import DecodeError, decode_image
from benchmark.progress import Progress
from datasets_scripts.inspection.examine import Row, is_caption_dataset, open_parquet, rows_of

FILE = "alignment.parquet"
COLUMNS = pa.schema({schema.CAPTION_ID: pa.int64(), "scores": pa.list_(pa.float32()), "model": pa.string()})
"""Columns of the file: one row per caption, in the dataset's order. The score of a null image is null."""
CHANCE = 95
"""Percentile of the scores of mismatched pairs (each image with the next caption) that defines chance level."""
BINS_PER_POINT = 100
"""Histogram bins per point of score, for the percentile."""


@dataclass(frozen=True)
class Alignment:
    """Alignment scores of a dataset."""

    model: str
    images: int
    mean: float
    chance: float
    """95th percentile of the scores of images with the next caption of their work unit."""
    below_chance: float
    """Fraction of images whose score with their own caption is below `chance`."""
    worst: list[tuple[float, Row]]
    """Mean score of a caption's images, and its row, in ascending order of score."""


def alignment(
    folder: Path, model: str, pretrained: str | None, device: str, batch: int, progress: Progress, worst: int = 10
) -> Alignment:
    """Score every image of a dataset with its caption, and write `alignment.parquet` to the folder.

    Args:
        folder: Folder of a finished dataset of captions.
        model: Architecture of open_clip, or hf-hub:ORG/NAME, which includes weights.
        pretrained: Weights: a tag of open_clip or a file.
        device: Torch device, such as "cuda".
        batch: Number of images encoded together.
        progress: Progress callback in captions.
        worst: Number of captions with the lowest scores to return.

    Raises:
        UserError: the dataset has no captions, the model is unknown, or its weights cannot be loaded.
    """
    manifest = schema.read_manifest(folder)
    if not is_caption_dataset(manifest):
        raise UserError(f"{folder} has labeled images; alignment needs a dataset of captions with their images")
    scorer = _Scorer(model, pretrained, device, batch)
    total, done = sum(manifest.rows.values()), 0
    counts = np.zeros((2, 100 * BINS_PER_POINT + 1), np.int64)
    lowest: list[tuple[float, int, Row]] = []
    total_score = 0.0
    with atomic_replace(folder / FILE) as temporary, pq.ParquetWriter(temporary, COLUMNS) as writer:
        for rows in _units(folder, manifest):
            matched, mismatched = scorer(rows)
            ids = [row[schema.CAPTION_ID] for row in rows]
            writer.write_table(pa.table([ids, matched, [scorer.name] * len(rows)], schema=COLUMNS))
            for kind, values in enumerate((matched, mismatched)):
                found = np.array([value for scores in values for value in scores if value is not None])
                counts[kind] += np.bincount(np.floor(found * BINS_PER_POINT).astype(int), minlength=counts.shape[1])
            for row, scores in zip(rows, matched):
                found = np.array([value for value in scores if value is not None])
                total_score += found.sum()
                if len(found):
                    heapq.heappush(lowest, (-float(found.mean()), -done, row))
                done += 1
            while len(lowest) > worst:
                heapq.heappop(lowest)
            progress(done, total, "")
    images = int(counts[0].sum())
    if not images:
        raise UserError(f"{folder} has no images, all failed; see the status column, then build the dataset again")
    chance_bin = int(np.searchsorted(np.cumsum(counts[1]), counts[1].sum() * CHANCE / 100))
    below = float(counts[0][:chance_bin].sum() / images)
    ascending = [(-negative, row) for negative, _, row in sorted(lowest, key=lambda each: each[:2], reverse=True)]
    return Alignment(scorer.name, images, float(total_score / images), chance_bin / BINS_PER_POINT, below, ascending)


def _units(folder: Path, manifest: schema.Manifest) -> Iterator[list[Row]]:
    """Yield the rows of each work unit."""
    for name in sorted(name for name in manifest.files if name.endswith(".parquet")):
        rows: list[Row] = []
        with open_parquet(folder / name) as file:
            for row in rows_of(file):
                rows.append(row)
                if len(rows) == schema.UNIT_CAPTIONS:
                    yield rows
                    rows = []
        if rows:
            yield rows


def check_name(model: str, pretrained: str | None) -> None:
    """Raise an error if open_clip does not have the model or its weights, before anything is loaded.

    Raises:
        UserError: the model or its weights are unknown; the message lists the available ones.
    """
    import open_clip

    known = open_clip.list_models()
    if ":" in model:
        return
    if model not in known:
        near = ", ".join(difflib.get_close_matches(model, known, 5, 0.3))
        raise UserError(
            f"unknown CLIP model {model!r}; expected MODEL/WEIGHTS; the closest of {len(known)} models: {near}"
        )
    if pretrained is None or not (Path(pretrained).is_file() or _has_tag(model, pretrained)):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise UserError(f"unknown weights {pretrained!r} of CLIP model {model}; choose a file or one of: {tags}")


class _Scorer:
    """CLIP model on a device."""

    def __init__(self, model: str, pretrained: str | None, device: str, batch: int) -> None:
        import open_clip

        check_name(model, pretrained)
        pretrained = None if ":" in model else pretrained
        self.name = f"{model}/{Path(pretrained).name}" if pretrained else model
        self.device, self.batch = device, batch
        before = logging.root.manager.disable
        logging.disable()  # huggingface_hub logs every retry, open_clip every failure
        try:
            self.model, _, self.preprocess = open_clip.create_model_and_transforms(
                model, pretrained=pretrained, device=device
            )
            self.tokenizer = open_clip.get_tokenizer(model)
        except Exception as error:  # from open_clip, torch, huggingface_hub or the network
            reason = textwrap.shorten(" ".join(str(error).split()), 200, placeholder=" ...")
            raise UserError(
                f"cannot load CLIP model {self.name} on {device} ({reason}); to load it offline, give MODEL/FILE"
            ) from error
        finally:
            logging.disable(before)
        self.model.eval()

    def __call__(self, rows: list[Row]) -> tuple[list[list[float | None]], list[list[float | None]]]:
        """Return the scores of every image with its own caption, and with the next one; None for a null image."""
        import torch

        positions = [(r, k) for r, row in enumerate(rows) for k, image in enumerate(row[schema.IMAGES]) if image]
        with torch.inference_mode():
            texts = self.tokenizer([row[schema.CAPTION] for row in rows]).to(self.device)
            texts_CD = self.model.encode_text(texts, normalize=True).float()
            images_BD = []
            for start in range(0, len(positions), self.batch):
                batch = [_read_image(rows[r], k) for r, k in positions[start : start + self.batch]]
                images_B3HW = torch.stack([self.preprocess(image) for image in batch])
                images_BD.append(self.model.encode_image(images_B3HW.to(self.device), normalize=True).float())
            cosine_BC = torch.cat(images_BD) @ texts_CD.T if images_BD else texts_CD.new_zeros(0, len(rows))
        scores_BC = (100 * cosine_BC.clamp(0, 1)).cpu().numpy()
        matched: list[list[float | None]] = [[None] * len(row[schema.IMAGES]) for row in rows]
        mismatched: list[list[float | None]] = [[None] * len(row[schema.IMAGES]) for row in rows]
        for (r, k), scores_C in zip(positions, scores_BC):
            matched[r][k] = float(scores_C[r])
            if len(rows) > 1:
                mismatched[r][k] = float(scores_C[(r + 1) % len(rows)])
        return matched, mismatched


def _read_image(row: Row, index: int) -> Image.Image:
    """Return an image of a row of a dataset."""
    try:
        return Image.fromarray(decode_image(row[schema.IMAGES][index]["bytes"]))
    except DecodeError as error:
        raise UserError(
            f"image {index} of caption {row[schema.CAPTION]!r} does not decode ({error}); run `synrep data check`, "
            "then build or download the dataset again"
        ) from None


def _has_tag(model: str, pretrained: str) -> bool:
    import open_clip

    return bool(open_clip.get_pretrained_cfg(model, pretrained))
