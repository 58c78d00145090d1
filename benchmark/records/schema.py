"""The schema of a record, and the hashes in it. `benchmark.records.store` makes, writes and reads records.

A record that does not say exactly what it was measured on, or whose hashes do not fit what it declares, cannot be
constructed and therefore cannot be read.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

from benchmark.errors import SkipCode, UserError


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


NonEmptyStr = Annotated[str, AfterValidator(_not_blank)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PathLike = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*$")]
"""A name that is also a path below the records: a slash is a folder."""
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*$")]
"""A name that is also one file's name."""
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class RecordModel(BaseModel):
    """A part of a record: frozen, and strict about its fields and their types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Declaration(RecordModel):
    """An Experiment as JSON; the fields a record relies on are named here, the others are kept as they are."""

    model_config = ConfigDict(extra="allow")

    name: PathLike
    version: Count
    method: FileName
    settings: dict[str, Any]
    dataset: NonEmptyStr
    revision: NonEmptyStr
    schedule: dict[str, int]
    encoder: dict[str, Any]

    @property
    def views(self) -> int:
        """Views seen in training; none without an optimiser."""
        return 0 if self.settings.get("optimizer") is None else self.schedule.get("views", 0)


class PretrainedDeclaration(RecordModel):
    """A model that was trained elsewhere, as JSON: where it comes from and what it is."""

    name: PathLike
    version: Count
    method: FileName
    source: NonEmptyStr
    encoder: dict[str, Any]

    @property
    def views(self) -> None:
        """Not known."""
        return None


def _origin(declaration: Any) -> str:
    foreign = (
        "source" in declaration if isinstance(declaration, dict) else isinstance(declaration, PretrainedDeclaration)
    )
    return "foreign" if foreign else "trained"


class ExperimentPart(RecordModel):
    """Which official run this is, or which model of others; then `method` is what tables call it."""

    name: PathLike
    version: Count
    method: FileName
    fingerprint: Sha256
    declaration: Annotated[
        Annotated[Declaration, Tag("trained")] | Annotated[PretrainedDeclaration, Tag("foreign")],
        Discriminator(_origin),
    ]

    @model_validator(mode="after")
    def _fingerprint_fits(self) -> Self:
        _equal("the fingerprint", self.fingerprint, sha256_of(self.declaration))
        for name in ("name", "version", "method"):
            _equal(f"the {name}", getattr(self, name), getattr(self.declaration, name))
        return self


class EvaluationPart(RecordModel):
    """Which protocol was followed. The list of datasets is no part of it: each dataset has its own result."""

    name: FileName
    version: Count
    preset: FileName
    knobs: dict[str, Any]
    protocol: Sha256
    """Over version, preset and knobs."""

    @model_validator(mode="after")
    def _protocol_fits(self) -> Self:
        _equal("the protocol hash", self.protocol, protocol_of(self.version, self.preset, self.knobs))
        return self


class ModelPart(RecordModel):
    """What was evaluated."""

    weights_sha256: Sha256
    views: Count | None
    """Seen in training; None where it was trained elsewhere."""
    encoder: dict[str, Any]
    layer: NonEmptyStr
    """What evaluations read: `cls`, `pooled`, `output`."""
    transform: dict[str, Any]
    precision: NonEmptyStr
    tile: Annotated[int, Field(gt=0)] | None = None
    """Images in each forward pass; None: stored features, or recorded when it was not fixed."""


class TrainingPart(RecordModel):
    """What it was trained on; an untrained model names its dataset without having read it."""

    repo: NonEmptyStr
    revision: NonEmptyStr
    content_sha256: Sha256 | None = None
    """Of the dataset's rows and indices (`schema.Manifest`); required where something was trained."""
    parents: dict[NonEmptyStr, Sha256] = Field(default_factory=dict)
    """Name of a file or record this one was made from -> its hash."""
    health: dict[NonEmptyStr, float] = Field(default_factory=dict)
    """What the features of its last batches looked like (`training.diagnostics.health`); empty where nobody looked."""
    spikes: Count | None = None
    """Losses far above those before them; None where nobody counted."""
    worst_spike: Count | None = None
    """The step of the highest of them."""


class DatasetPart(RecordModel):
    """Exactly what was measured on; every field is required."""

    repo: NonEmptyStr
    revision: NonEmptyStr
    split: NonEmptyStr
    n: Annotated[int, Field(gt=0)]
    ids_sha256: Sha256


class ScorePart(RecordModel):
    """A number with its sample size and 95 % interval, as fractions of one."""

    value: Fraction
    low: Fraction
    high: Fraction
    n: Annotated[int, Field(gt=0)]

    @model_validator(mode="after")
    def _interval_holds_value(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"wanted low <= value <= high, got {self.low} <= {self.value} <= {self.high}")
        return self


class Predictions(RecordModel):
    """The per-sample predictions on one dataset, in a Parquet file in the folder of the record's name."""

    file: FileName
    sha256: Sha256


class Environment(RecordModel):
    """Where the numbers were made; no paths, no host names."""

    python: NonEmptyStr
    platform: NonEmptyStr
    packages: dict[str, str]
    device: NonEmptyStr
    commit: str | None
    """None outside a git checkout."""
    dirty: bool
    """The code differs from `commit`."""


class Measured(RecordModel):
    """The scores on one dataset."""

    dataset: DatasetPart
    main: NonEmptyStr
    """The score that tables show."""
    scores: dict[NonEmptyStr, ScorePart]
    chance: Fraction
    per_class: dict[str, ScorePart] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
    predictions: Predictions | None = None
    environment: Environment

    @model_validator(mode="after")
    def _main_is_a_score(self) -> Self:
        if self.main not in self.scores:
            raise ValueError(f"the main score {self.main!r} is not among the scores {sorted(self.scores)}")
        return self


class NotMeasured(RecordModel):
    """A dataset without scores, and why."""

    skipped: NonEmptyStr
    """The reason, for people."""
    code: SkipCode


def _kind(result: Any) -> str:
    skipped = "skipped" in result if isinstance(result, dict) else isinstance(result, NotMeasured)
    return "skipped" if skipped else "measured"


Result = Annotated[
    Annotated[Measured, Tag("measured")] | Annotated[NotMeasured, Tag("skipped")],
    Discriminator(_kind),
]


class Record(RecordModel):
    """One measurement: an experiment, a seed, a preset of an evaluation."""

    schema_version: Literal[4] = 4
    checksum: Sha256 | None = Field(default=None, exclude=True)
    """SHA-256 over all else in the record's file (`benchmark.records.store.checksum`); a record in memory has none."""
    experiment: ExperimentPart
    seed: Count
    evaluation: EvaluationPart
    model: ModelPart
    training: TrainingPart | None
    """None for a model that was trained elsewhere."""
    results: Annotated[dict[NonEmptyStr, Result], Field(min_length=1)]
    seconds: dict[str, Annotated[float, Field(ge=0, le=1e10)]] = Field(default_factory=dict)
    """Of `train`, and of each dataset."""
    created: date

    @property
    def key(self) -> str:
        """`name/version/seed`: the folder of its model below `records/` and `predictions/`."""
        return f"{self.experiment.name}/{self.experiment.version}/{self.seed}"

    @model_validator(mode="after")
    def _agrees_with_declaration(self) -> Self:
        declared = self.experiment.declaration
        _equal("model.views", self.model.views, declared.views)
        _equal("model.encoder", self.model.encoder, declared.encoder)
        if isinstance(declared, PretrainedDeclaration) or self.training is None:
            _equal("whether there is a training", self.training is not None, isinstance(declared, Declaration))
            return self
        _equal("training.repo", self.training.repo, declared.dataset)
        _equal("training.revision", self.training.revision, declared.revision)
        if self.model.views and self.training.content_sha256 is None:
            raise ValueError("training.content_sha256 is missing, but the model was trained")
        return self


def canonical_json(value: Any) -> str:
    """One text per value: keys sorted, no spaces; dataclasses, numpy values and record parts become plain JSON.

    Raises:
        UserError: the value holds something that JSON cannot, such as NaN.
    """
    try:
        if isinstance(value, BaseModel):  # its names are texts already
            return json.dumps(value.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        plain = json.loads(json.dumps(value, default=_plain, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(f"a record takes plain finite values; {error}: convert or drop that value") from error
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def sha256_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def protocol_of(version: int, preset: str, knobs: Mapping[str, Any]) -> str:
    """SHA-256 of what makes two measurements comparable."""
    return sha256_of({"version": version, "preset": preset, "knobs": knobs})


def _equal(what: str, stored: object, computed: object) -> None:
    if stored != computed:
        raise ValueError(f"{what} is {stored!r}, but what was declared gives {computed!r}")


def _plain(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not plain")
