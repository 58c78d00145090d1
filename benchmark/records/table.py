"""A table of all records, one row per (record, dataset, score), and the card of the repository that contains it.

Rows are sorted by the record's path, then the dataset, then the score, with the main score first. Skipped datasets have
no row; their reasons, the per-class scores and all other fields are in the JSON file at `path`.
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
    "experiment": ("string", "name of the experiment, or `pretrained/<name>` for a pretrained model"),
    "version": ("int64", "version of the experiment"),
    "method": ("string", "training method"),
    "seed": ("int64", "training seed"),
    "evaluation": ("string", "name of the evaluation"),
    "preset": ("string", "name of the protocol, after its source"),
    "evaluation_version": ("int64", "version of the evaluation; different versions are not comparable"),
    "protocol": ("string", "SHA-256 of version, preset and knobs; rows with the same protocol are comparable"),
    "dataset": ("string", "evaluation dataset, by its name in the benchmark"),
    "dataset_repo": ("string", "repository of the evaluation dataset on the Hub"),
    "dataset_revision": ("string", "pinned revision of the evaluation dataset"),
    "split": ("string", "split of the evaluation dataset"),
    "score": ("string", "name of the score"),
    "is_main": ("bool", "true for the score that tables show"),
    "value": ("float64", "score as a fraction of one"),
    "low": ("float64", "lower end of the 95 % interval"),
    "high": ("float64", "upper end of the 95 % interval"),
    "n": ("int64", "number of samples"),
    "chance": ("float64", "chance level of the main score"),
    "training_repo": ("string", "training dataset; empty for a pretrained model"),
    "training_revision": ("string", "pinned revision of the training dataset"),
    "views": ("int64", "views seen in training; empty if unknown"),
    "weights_sha256": ("string", "SHA-256 of the evaluated weights"),
    "layer": ("string", "layer whose features were evaluated"),
    "predictions_sha256": ("string", "SHA-256 of the predictions, from which the score can be recomputed"),
    "path": ("string", "path of the record in this repository"),
    "created": ("date32", "date of the record"),
}
"""Column name -> Arrow type and description, in order."""
SCHEMA = pa.schema([(name, getattr(pa, kind.replace("bool", "bool_"))()) for name, (kind, _) in COLUMNS.items()])


def parquet(records: Mapping[str, Record]) -> bytes:
    """Return the Parquet table of records by their paths; the bytes are reproducible with one version of pyarrow.

    Raises:
        UserError: a number of a record does not fit into its column.
    """
    buffer = io.BytesIO()
    pq.write_table(arrow(records), buffer, compression="zstd")
    return buffer.getvalue()


def arrow(records: Mapping[str, Record]) -> pa.Table:
    """Return the table of records by their paths.

    Raises:
        UserError: a number of a record does not fit into its column.
    """
    parts = []
    for path in sorted(records):
        try:
            parts.append(pa.Table.from_pylist(list(rows(path, records[path])), SCHEMA))
        except (OverflowError, pa.ArrowException) as error:
            raise UserError(
                f"record {path}: a number does not fit into its column: {error}; remove the file"
            ) from error
    return pa.concat_tables([SCHEMA.empty_table(), *parts]).combine_chunks()


def rows(path: str, record: Record) -> Iterator[dict[str, Any]]:
    """Yield a row for each score of a record."""
    record_columns = {
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
    for name, result in sorted(record.results.items()):
        if not isinstance(result, Measured):
            continue
        dataset_columns = {
            "dataset": name,
            "dataset_repo": result.dataset.repo,
            "dataset_revision": result.dataset.revision,
            "split": result.dataset.split,
            "chance": result.chance,
            "predictions_sha256": result.predictions and result.predictions.sha256,
        }
        for score in sorted(result.scores, key=lambda score: (score != result.main, score)):
            score_columns = {"score": score, "is_main": score == result.main, **result.scores[score].model_dump()}
            yield {**record_columns, **dataset_columns, **score_columns}


def card(repo: str, records: Mapping[str, Record], table: str) -> str:
    """Return the README.md of a repository with these records; `table` is the file name of its table."""
    data = DatasetCardData(
        pretty_name="SynRep-Bench records",
        license="apache-2.0",
        language=["en"],
        tags=["synrep-bench", "benchmark"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": table}]}],
    )
    models = {(record.experiment.name, record.experiment.version, record.seed) for record in records.values()}
    counts = Counter(record.evaluation.name for record in records.values())
    scores = sum(len(list(rows(path, record))) for path, record in records.items())
    count_rows = "\n".join(f"| {name} | {count:,} |" for name, count in sorted(counts.items()))
    column_rows = "\n".join(f"| `{name}` | {kind} | {text} |" for name, (kind, text) in COLUMNS.items())
    return f"""---
{data.to_yaml()}
---

# Records of SynRep-Bench

**Measured scores of visual representations**: {len(records):,} records of {len(models):,} models, with {scores:,}
scores. A record is one measurement: a model, a seed, and an evaluation with one protocol.

```python
from datasets import load_dataset

scores = load_dataset("{repo}", split="train", revision="main").to_pandas()
print(scores[scores.is_main].groupby(["experiment", "dataset", "protocol"]).value.mean())
```

- **Made for** comparing models whose rows have the same `protocol`, `dataset_revision` and `split`, with intervals.
- **Not for** ranking rows of different protocols, nor for training.
- **License**: Apache-2.0. The terms of a dataset also apply to results computed from it.
- **Provenance**: records are never edited. `synrep results pull {repo}` downloads and validates them, and merges them
  into `results/`. `synrep results push {repo}` adds local records that are missing here.

| evaluation | records |
|---|---|
{count_rows}

## Files

| file | content |
|---|---|
| `{table}` | one row per record, dataset and score, generated from the files below |
| `records/<model>/<evaluation>.<preset>.json` | the records, with everything needed to verify and reproduce them |
| `predictions/<model>/<evaluation>.<preset>/<dataset>.parquet` | the answers of the model, one row per sample |

## Columns

<details>
<summary>The {len(COLUMNS)} columns of the table</summary>

| column | type | description |
|---|---|---|
{column_rows}

</details>
"""
