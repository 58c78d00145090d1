"""The schema of a record and its hashes. `benchmark.records.create` creates records, `store` reads and writes them.

A record that does not identify exactly what it was measured on, or whose hashes do not match its declaration, cannot be
constructed and therefore cannot be read.
"""

import hashlib
import json
import operator
import re
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


PORTABLE = re.compile(r"(?!(con|prn|aux|nul|com\d|lpt\d)(\.|$))[a-z0-9]([\w.-]{,198}[\w-])?", re.ASCII | re.IGNORECASE)
"""A name of a file or folder on every system: ASCII, not hidden, without a dot at its end, and no device of Windows."""
MAX_PATH = 250


def _portable(name: str) -> str:
    if len(name) > MAX_PATH or not all(map(PORTABLE.fullmatch, name.split("/"))):
        raise ValueError(
            f"must be at most {MAX_PATH} ASCII letters, digits and ._- with no dot at the end, and no device name"
        )
    return name


def _finite(value: dict[str, Any]) -> dict[str, Any]:
    json.dumps(value, allow_nan=False)  # raises ValueError
    return value


NonEmptyStr = Annotated[str, AfterValidator(_not_blank)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PathLike = Annotated[str, AfterValidator(_portable)]
"""A name that is also a relative path: slashes separate folders."""
FileName = Annotated[str, StringConstraints(pattern=r"^[^/]+$"), AfterValidator(_portable)]
"""A name that is also a file name."""
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Details = Annotated[dict[str, Any], AfterValidator(_finite)]
"""Any JSON object; its numbers are finite."""


class RecordModel(BaseModel):
    """The base class of the parts of a record: frozen, with strict fields and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Declaration(RecordModel):
    """An Experiment as JSON: the fields that a record depends on are typed, the others are kept unchanged."""

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
        """Views seen in training; 0 without an optimizer."""
        return 0 if self.settings.get("optimizer") is None else self.schedule.get("views", 0)


class PretrainedDeclaration(RecordModel):
    """A model that was trained elsewhere, as JSON: its source and encoder."""

    name: PathLike
    version: Count
    method: FileName
    source: NonEmptyStr
    encoder: dict[str, Any]

    @property
    def views(self) -> None:
        """Views seen in training: unknown."""
        return None


def _declaration_kind(declaration: Any) -> str:
    is_pretrained = (
        "source" in declaration if isinstance(declaration, dict) else isinstance(declaration, PretrainedDeclaration)
    )
    return "pretrained" if is_pretrained else "trained"


class ExperimentPart(RecordModel):
    """The official run or the pretrained model; `method` is the name of the model in tables."""

    name: PathLike
    version: Count
    method: FileName
    fingerprint: Sha256
    declaration: Annotated[
        Annotated[Declaration, Tag("trained")] | Annotated[PretrainedDeclaration, Tag("pretrained")],
        Discriminator(_declaration_kind),
    ]

    @model_validator(mode="after")
    def _check_fingerprint(self) -> Self:
        _require_equal("fingerprint", self.fingerprint, sha256_of(self.declaration))
        for name in ("name", "version", "method"):
            _require_equal(name, getattr(self, name), getattr(self.declaration, name))
        return self


class EvaluationPart(RecordModel):
    """The protocol. The list of datasets is not part of it: each dataset has its own result."""

    name: FileName
    version: Count
    preset: FileName
    knobs: dict[str, Any]
    protocol: Sha256
    """SHA-256 of version, preset and knobs."""

    @model_validator(mode="after")
    def _check_protocol(self) -> Self:
        _require_equal("protocol", self.protocol, protocol_of(self.version, self.preset, self.knobs))
        return self


class ModelPart(RecordModel):
    """The evaluated model."""

    weights_sha256: Sha256
    views: Count | None
    """Views seen in training; None for a pretrained model."""
    encoder: dict[str, Any]
    layer: NonEmptyStr
    """Layer whose features were evaluated: `cls`, `pooled`, `output`, ..."""
    transform: Details
    precision: NonEmptyStr
    tile: Annotated[int, Field(gt=0)] | None = None
    """Images in each forward pass; None for precomputed features, and in records from before it was fixed."""
    memory_format: Literal["channels_last"] | None = Field(default=None, exclude_if=operator.not_)
    """Memory format of a convolutional network; None for other models, and in records from before it was chosen."""


class TrainingPart(RecordModel):
    """The training dataset; an untrained model names its dataset without having read it."""

    repo: NonEmptyStr
    revision: NonEmptyStr
    content_sha256: Sha256 | None = None
    """Hash of the dataset's rows and indices (`schema.Manifest`); required for trained models."""
    parents: dict[NonEmptyStr, Sha256] = Field(default_factory=dict)
    """Name -> hash of each file or record that this one was created from."""
    health: dict[NonEmptyStr, float] = Field(default_factory=dict)
    """Feature health of the last batches (`training.diagnostics.health`); empty if it was not measured."""
    spikes: Count | None = None
    """Number of loss spikes; None if they were not counted."""
    worst_spike: Count | None = None
    """Step of the largest spike."""


class DatasetPart(RecordModel):
    """The exact identity of the evaluated dataset; see `interfaces.DatasetIdentity`.

    Records from before content was hashed lack the last two fields.
    """

    repo: NonEmptyStr
    revision: NonEmptyStr
    split: NonEmptyStr
    n: Annotated[int, Field(gt=0)]
    ids_sha256: Sha256
    content_sha256: dict[NonEmptyStr, Sha256] = Field(default_factory=dict, exclude_if=operator.not_)
    """Split that was read -> SHA-256 of its files."""
    provenance: Literal["verified", "unverified"] | None = Field(default=None, exclude_if=operator.not_)
    """Result of comparing the files with the checksums of `revision`; None if there is nothing to compare."""

    @property
    def samples(self) -> tuple[str, str, str, int, str]:
        """Identity without the files: results that differ in it are never compared."""
        return self.repo, self.revision, self.split, self.n, self.ids_sha256

    def has_same_samples(self, other: Self) -> bool:
        """Return whether the samples are equal, and their files too, as far as both are known."""
        contents = [part.content_sha256 for part in (self, other) if part.content_sha256]
        return self.samples == other.samples and contents[1:] == contents[:-1]


class ScorePart(RecordModel):
    """A score with its sample size and 95 % interval, as fractions of one."""

    value: Fraction
    low: Fraction
    high: Fraction
    n: Annotated[int, Field(gt=0)]

    @model_validator(mode="after")
    def _check_interval(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"expected low <= value <= high, found {self.low}, {self.value}, {self.high}")
        return self


class Predictions(RecordModel):
    """The per-sample predictions on one dataset: a Parquet file in the folder named after the record."""

    file: FileName
    sha256: Sha256


class Environment(RecordModel):
    """The environment of a measurement, without paths and host names."""

    python: NonEmptyStr
    platform: NonEmptyStr
    packages: dict[str, str]
    device: NonEmptyStr
    commit: str | None
    """Commit of the code; None outside a git checkout."""
    dirty: bool
    """Flag: the code differs from `commit`."""


class Measured(RecordModel):
    """The scores on one dataset."""

    dataset: DatasetPart
    main: NonEmptyStr
    """Name of the score that tables show."""
    scores: dict[NonEmptyStr, ScorePart]
    chance: Fraction
    per_class: dict[str, ScorePart] = Field(default_factory=dict)
    details: Details = Field(default_factory=dict)
    predictions: Predictions | None = None
    features_sha256: Sha256 | None = Field(default=None, exclude_if=operator.not_)
    """SHA-256 of the feature files; None if a network encoded the images."""
    environment: Environment

    @model_validator(mode="after")
    def _check_main(self) -> Self:
        if self.main not in self.scores:
            raise ValueError(f"expected the main score to be one of {sorted(self.scores)}, found {self.main!r}")
        return self


class NotMeasured(RecordModel):
    """A dataset that was skipped, with the reason."""

    skipped: NonEmptyStr
    """Reason in words."""
    code: SkipCode


def _result_kind(result: Any) -> str:
    skipped = "skipped" in result if isinstance(result, dict) else isinstance(result, NotMeasured)
    return "skipped" if skipped else "measured"


Result = Annotated[
    Annotated[Measured, Tag("measured")] | Annotated[NotMeasured, Tag("skipped")],
    Discriminator(_result_kind),
]


PIXELS = "pixels"
"""Library in the description of the encoder that returns the pixels of an image."""


class Record(RecordModel):
    """One measurement: an experiment, a seed and a preset of an evaluation."""

    schema_version: Literal[5] = 5
    experiment: ExperimentPart
    seed: Count
    evaluation: EvaluationPart
    model: ModelPart
    training: TrainingPart | None
    """Training dataset; None for a pretrained model."""
    results: Annotated[dict[NonEmptyStr, Result], Field(min_length=1)]
    seconds: dict[str, Annotated[float, Field(ge=0, le=1e10)]] = Field(default_factory=dict)
    """Duration of `train` and of each dataset, in seconds."""
    created: date

    @property
    def key(self) -> str:
        """Folder of the model below `records/` and `predictions/`: `name/version/seed`."""
        return f"{self.experiment.name}/{self.experiment.version}/{self.seed}"

    @property
    def is_pixels(self) -> bool:
        """True for raw pixels, the floor of every comparison."""
        return self.model.encoder.get("library") == PIXELS

    @model_validator(mode="after")
    def _check_declaration(self) -> Self:
        declared = self.experiment.declaration
        _require_equal("model.views", self.model.views, declared.views)
        _require_equal("model.encoder", self.model.encoder, declared.encoder)
        if isinstance(declared, PretrainedDeclaration):
            if self.training is not None:
                raise ValueError("expected null for training of a pretrained model")
            return self
        if self.training is None:
            raise ValueError("training is required for a declared experiment")
        _require_equal("training.repo", self.training.repo, declared.dataset)
        _require_equal("training.revision", self.training.revision, declared.revision)
        if self.model.views and self.training.content_sha256 is None:
            raise ValueError("training.content_sha256 is required for a trained model")
        return self


def canonical_json(value: Any) -> str:
    """Return the unique JSON text of a value: sorted keys, no spaces.

    Dataclasses, NumPy values and parts of records are converted to plain JSON.

    Raises:
        UserError: JSON cannot represent the value, such as NaN.
    """
    try:
        if isinstance(value, BaseModel):  # its keys are strings already
            return json.dumps(value.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        plain = json.loads(json.dumps(value, default=_to_json, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"expected JSON values and finite numbers in a record: {error}; convert or remove the value"
        ) from error
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def sha256_of(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def protocol_of(version: int, preset: str, knobs: Mapping[str, Any]) -> str:
    """Return the protocol hash; measurements with equal hashes are comparable."""
    return sha256_of({"version": version, "preset": preset, "knobs": knobs})


def _require_equal(field: str, stored: object, declared: object) -> None:
    if stored != declared:
        raise ValueError(f"expected {declared!r} for {field} (from the declaration), found {stored!r}")


def _to_json(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON serializable")
