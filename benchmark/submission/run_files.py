"""The files of runs next to a folder of records, checked against it: `model.json`, the weights, the feature store."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmark.files import file_sha256, read_json, sha256_json
from benchmark.records.schema import Record


def find_problems(out: Path, records: Sequence[tuple[Path, Record]]) -> Iterator[str]:
    """Yield one line for each contradiction between records and the files of their runs below `out`."""
    runs = {record.key: (path, record) for path, record in records if record.training}
    models: dict[str, dict[object, Path]] = {}
    for key, (path, record) in sorted(runs.items()):
        yield from _model_problems(out / "train" / key, path, record)
        models.setdefault(key.rpartition("/")[0], {})[record.model.weights_sha256] = path
    for model, weights in models.items():
        yield from _feature_problems(out, model, weights)


def _model_problems(folder: Path, path: Path, record: Record) -> Iterator[str]:
    """Yield the differences between a record and `model.json` and the weights of its run."""
    source, weights = folder / "model.json", folder / "model.safetensors"
    expected = {
        "fingerprint": record.experiment.fingerprint,
        "seed": record.seed,
        "weights_sha256": record.model.weights_sha256,
        "content_sha256": record.training and record.training.content_sha256,
    }
    card = _json(source)
    if source.exists() and card is None:
        yield f"{source}: expected a JSON object; train the run again"
    for key, value in expected.items():
        if card and key in card and card[key] != value:
            yield f"{path}: {key}: expected {card[key]} as in {source}, found {value}; evaluate again"
    if weights.is_file() and file_sha256(weights) != record.model.weights_sha256:
        yield f"{weights}: expected the weights evaluated in {path}, found others; train the run again"


def _feature_problems(out: Path, model: str, weights: dict[object, Path]) -> Iterator[str]:
    """Yield the features of a model, which all its seeds share a folder for, that are of none of its weights.

    Args:
        out: folder of the runs.
        model: name and version of the model.
        weights: SHA-256 of the weights of each seed that has a record, and one of its records.
    """
    cards = map(_json, (out / "train" / model).glob("*/model.json"))  # seeds that are trained, but have no record yet
    known = {*weights, *(card.get("weights_sha256") for card in cards if card)}
    for stored in sorted((out / "features" / model).glob("*/key.json")):
        key = _json(stored)
        if key is None or sha256_json(key) != stored.parent.name:
            yield f"{stored}: expected a key whose hash is the name of its folder; remove the folder"
        elif key.get("weights_sha256") not in known:
            path = next(iter(weights.values()))
            yield f"{stored}: expected features of the weights in {path}, found others; remove the folder"


def _json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None if there is none."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
