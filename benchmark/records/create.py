"""Creation of records from scores: declaration, results, environment and their hashes."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from benchmark.errors import UserError
from benchmark.interfaces import DatasetScores, Evaluation, Experiment, Pretrained, Score, Skipped
from benchmark.records.schema import (
    Environment,
    Measured,
    NotMeasured,
    Predictions,
    Record,
    canonical_json,
    protocol_of,
    sha256_of,
)
from benchmark.records.store import parse_record


def fingerprint(origin: Experiment | Pretrained) -> str:
    """Return the SHA-256 of the declaration.

    Every setting changes it. The list of seeds is left out, so that adding a seed does not change it.
    """
    return sha256_of(_declaration(origin))


def record_key(origin: Experiment | Pretrained, seed: int) -> str:
    """Return the folder of a model's records, `name/version/seed`, such as `smoke/mae/1/0`."""
    declared = _declaration(origin)
    return f"{declared['name']}/{declared['version']}/{seed}"


def protocol_hash(evaluation: Evaluation) -> str:
    """Return the SHA-256 of version, preset and knobs; the list of datasets is left out."""
    return protocol_of(evaluation.version, evaluation.preset, _knobs(evaluation))


def from_scores(
    scores: Mapping[str, DatasetScores | Skipped | Measured | NotMeasured],
    *,
    origin: Experiment | Pretrained,
    seed: int,
    name: str,
    evaluation: Evaluation,
    metadata: Mapping[str, Any],
    content_sha256: str | None,
    environment: Environment,
    training_diagnostics: Mapping[str, Any] | None = None,
    parents: Mapping[str, str] | None = None,
    seconds: Mapping[str, float] | None = None,
    predictions: Mapping[str, Predictions] | None = None,
) -> Record:
    """Return the record of one evaluation of one seed of a model.

    Args:
        scores: dataset -> scores, the reason it was skipped, or a result of an older record, which stays unchanged.
        origin: the declaration of the model.
        seed: seed of the run; 0 for a pretrained model.
        name: name of the evaluation's file.
        evaluation: the protocol.
        metadata: description of the model (see `interfaces.FrozenModel`).
        content_sha256: hash of the training data; None for a pretrained model.
        environment: hardware and versions of this process.
        training_diagnostics: warnings and feature health (see `training.diagnostics.record_fields`).
        parents: name -> hash of each file or record that the model was created from.
        seconds: durations by name, in seconds.
        predictions: dataset -> its predictions file.

    Raises:
        UserError: a required value is missing or out of range; the message names the field.
    """
    declared, files = _declaration(origin), predictions or {}
    training = None
    if isinstance(origin, Experiment):
        source = {"repo": origin.dataset, "revision": origin.revision, "content_sha256": content_sha256}
        training = {**source, "parents": parents or {}, **(training_diagnostics or {})}
    content = {
        "experiment": {
            **{field: declared[field] for field in ("name", "version", "method")},
            "fingerprint": sha256_of(declared),
            "declaration": declared,
        },
        "seed": seed,
        "evaluation": {
            "name": name,
            "version": evaluation.version,
            "preset": evaluation.preset,
            "knobs": _knobs(evaluation),
            "protocol": protocol_hash(evaluation),
        },
        "model": {**metadata, "views": _views(origin), "encoder": declared["encoder"]},
        "training": training,
        "results": {dataset: _result(result, files.get(dataset), environment) for dataset, result in scores.items()},
        "seconds": seconds or {},
        "created": datetime.now(UTC).date().isoformat(),
    }
    return parse_record(canonical_json(content), f"{declared['name']} seed {seed} {name}", "correct the evaluation")


def _result(
    result: DatasetScores | Skipped | Measured | NotMeasured, file: Predictions | None, environment: Environment
) -> Any:
    """Return the JSON of a result; results of older records are returned unchanged."""
    if isinstance(result, Measured | NotMeasured):
        return result
    if isinstance(result, Skipped):
        return {"skipped": result.reason, "code": result.code}
    return {
        "dataset": result.dataset,
        "main": next(iter(result.scores), ""),
        "scores": {name: _score(name, score) for name, score in result.scores.items()},
        "chance": result.chance,
        "per_class": {name: _score(name, score) for name, score in result.per_class.items()},
        "details": result.details,
        "predictions": file,
        "features_sha256": result.features_sha256,
        "environment": environment,
    }


def _score(name: str, score: Score) -> dict[str, Any]:
    """Return the JSON of a score, with rounding errors at the ends of its interval corrected.

    Wilson's upper end for a perfect score may be 1 - 1e-16.
    """
    value, low, high = float(score.value), float(score.low), float(score.high)
    if not all(map(math.isfinite, (value, low, high))):
        raise UserError(
            f"expected finite numbers for score {name!r}, found {value} in [{low}, {high}]; correct the evaluation"
        )
    slack = 1e-9
    value = min(max(value, 0.0), 1.0) if -slack < value < 1 + slack else value
    low = min(max(low, 0.0), value) if -slack < low < value + slack else low
    high = max(min(high, 1.0), value) if value - slack < high < 1 + slack else high
    return {"value": value, "low": low, "high": high, "n": score.n}


def _declaration(origin: Experiment | Pretrained) -> dict[str, Any]:
    """Return the declaration as JSON, without seeds."""
    declaration: dict[str, Any] = json.loads(canonical_json(origin))
    if isinstance(origin, Pretrained):
        slug = declaration.pop("slug")
        return {"name": f"pretrained/{slug}", "version": 1, "method": slug, **declaration}
    del declaration["seeds"]
    return declaration


def _views(origin: Experiment | Pretrained) -> int | None:
    """Return the views seen in training: 0 for an untrained model, None for a pretrained one."""
    if isinstance(origin, Pretrained):
        return None
    return 0 if origin.settings.optimizer is None else origin.schedule.views


def _knobs(evaluation: Evaluation) -> dict[str, Any]:
    knobs: dict[str, Any] = json.loads(canonical_json(evaluation))
    del knobs["datasets"], knobs["preset"]
    return knobs
