"""All records as one table, a row per (record, dataset, score), and the card of the repository that holds it.

The same records give the same rows in the same order: by the record's path, then the dataset, then the score, the main
one first. What was skipped has no row; its reason, the scores of single classes and all else are in the JSON at `path`.
"""

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from benchmark.errors import UserError
from benchmark.records.schema import Measured, Record

COLUMNS: dict[str, tuple[str, str]] = {
    "experiment": ("string", "name of the run, or `pretrained/<name>` for a model of others"),
    "version": ("int64", "of the experiment"),
    "method": ("string", "what was trained"),
    "seed": ("int64", "of training"),
    "evaluation": ("string", "what was measured"),
    "preset": ("string", "the protocol, by where it comes from"),
    "evaluation_version": ("int64", "of the evaluation; versions are not comparable"),
    "protocol": ("string", "SHA-256 of version, preset and knobs: rows of one protocol are comparable"),
    "dataset": ("string", "measured on, by its name in the benchmark"),
    "dataset_repo": ("string", "the same on the Hub"),
    "dataset_revision": ("string", "pinned"),
    "split": ("string", "of it"),
    "score": ("string", "name of the number"),
    "is_main": ("bool", "the one that tables show"),
    "value": ("float64", "a fraction of one"),
    "low": ("float64", "of the 95 % interval"),
    "high": ("float64", "of the 95 % interval"),
    "n": ("int64", "samples behind the number"),
    "chance": ("float64", "what guessing gives in the main score"),
    "training_repo": ("string", "trained on; empty for a model of others"),
    "training_revision": ("string", "pinned"),
    "views": ("int64", "seen in training; empty where it is not known"),
    "weights_sha256": ("string", "of what was evaluated"),
    "layer": ("string", "of it that was read"),
    "predictions_sha256": ("string", "of the answers, from which the score can be made again"),
    "path": ("string", "of the record in this repository"),
    "created": ("date32", "the record"),
}
"""Name -> Arrow's type and a description, in order."""
SCHEMA = pa.schema([(name, getattr(pa, kind.replace("bool", "bool_"))()) for name, (kind, _) in COLUMNS.items()])


def parquet(records: Mapping[str, Record]) -> bytes:
    """The table of records by their paths; with one version of pyarrow always the same bytes.

    Raises:
        UserError: a record holds a number that no column takes; the message names it.
    """
    parts = []
    for path in sorted(records):
        try:
            parts.append(pa.Table.from_pylist(list(rows(path, records[path])), SCHEMA))
        except (OverflowError, pa.ArrowException) as error:
            raise UserError(f"record {path} does not fit into a table: {error}; remove the file") from error
    out = io.BytesIO()
    pq.write_table(pa.concat_tables([SCHEMA.empty_table(), *parts]).combine_chunks(), out, compression="zstd")
    return out.getvalue()


def rows(path: str, record: Record) -> Iterator[dict[str, Any]]:
    """The scores of a record, with all that is needed to filter and compare them."""
    of_record = {
        **{name: getattr(record.experiment, name) for name in ("version", "method")},
        "experiment": record.experiment.name,
        "seed": record.seed,
        "evaluation": record.evaluation.name,
        "preset": record.evaluation.preset,
        "evaluation_version": record.evaluation.version,
        "protocol": record.evaluation.protocol,
        "training_repo": record.training and record.training.repo,
        "training_revision": record.training and record.training.revision,
        "views": record.model.views,
        "weights_sha256": record.model.weights_sha256,
        "layer": record.model.layer,
        "path": path,
        "created": record.created,
    }
    for name, part in sorted(record.results.items()):
        if not isinstance(part, Measured):
            continue
        of_dataset = {
            "dataset": name,
            "dataset_repo": part.dataset.repo,
            "dataset_revision": part.dataset.revision,
            "split": part.dataset.split,
            "chance": part.chance,
            "predictions_sha256": part.predictions and part.predictions.sha256,
        }
        for score in sorted(part.scores, key=lambda score: (score != part.main, score)):
            of_score = {"score": score, "is_main": score == part.main, **part.scores[score].model_dump()}
            yield {**of_record, **of_dataset, **of_score}


def card(repo: str, records: Mapping[str, Record], table: str) -> str:
    """README.md of a repository that holds these records, whose table is the file `table`."""
    data = DatasetCardData(
        pretty_name="SynRep-Bench records",
        tags=["synrep-bench", "benchmark"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": table}]}],
    )
    runs = {(record.experiment.name, record.experiment.version, record.seed) for record in records.values()}
    counts = Counter(record.evaluation.name for record in records.values())
    scores = sum(len(list(rows(path, record))) for path, record in records.items())
    counted = "\n".join(f"| {name} | {count:,} |" for name, count in sorted(counts.items()))
    columns = "\n".join(f"| `{name}` | {kind} | {text} |" for name, (kind, text) in COLUMNS.items())
    return f"""---
{data.to_yaml()}
---

# Records of SynRep-Bench

{len(records):,} records of {len(runs):,} models, with {scores:,} scores. A record is one measurement: a model, a seed,
an evaluation in one protocol.

```python
import datasets

scores = datasets.load_dataset("{repo}", split="train").to_pandas()
main = scores[scores.is_main]
```

| evaluation | records |
|---|---|
{counted}

## What is where

| file | what it is |
|---|---|
| `{table}` | a row per record, dataset and score, made from the files below |
| `records/<place>/<evaluation>.<preset>.json` | the records, with everything it takes to trust and repeat them |
| `predictions/<place>/<evaluation>.<preset>/<dataset>.parquet` | what was answered, sample by sample |

`synrep results pull {repo}` brings them into `results/`, checked; `synrep results push {repo}` adds those that are
missing here. Records are never edited. What was computed from a dataset keeps that dataset's terms.

## Columns

| column | type | what it is |
|---|---|---|
{columns}
"""
