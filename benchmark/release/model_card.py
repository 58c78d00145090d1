"""The model card of a released encoder: what it is, how to load it, what it is for, scores, training and limits.

Main scores are in the YAML's `model-index`, which the Hub reads, and in a table with n and intervals. Long tables are
folded. The Hub has no widget for image features, so the header has no examples for one.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCard, EvalResult, ModelCardData

from benchmark import schema
from benchmark.errors import MissingDataset, UserError
from benchmark.hub import cards
from benchmark.interfaces import Experiment
from benchmark.mirror import dataset_folder
from benchmark.records import create
from benchmark.records.schema import Measured, NotMeasured, Record
from benchmark.training import diagnostics
from benchmark.transforms.evaluation import EvaluationTransform

TAGS = ("timm", "image-feature-extraction", "synrep-bench")
TASKS = {"segmentation": "image-segmentation"}
"""Evaluation -> task type on the Hub; the others that need no text tower are `image-classification`."""
LICENSE_FIELDS = ("license", "license_name", "license_link")


def card(
    repo: str,
    experiment: Experiment,
    seed: int,
    *,
    run: Mapping[str, Any],
    records: Sequence[Record],
    hashes: Mapping[str, str],
    parameters: int,
    license_data: Mapping[str, Any],
) -> str:
    """Return the card as Markdown with a YAML header.

    Args:
        repo: ORG/NAME of the model on the Hub.
        experiment: the run's declaration.
        seed: the run's seed.
        run: content of the run's `model.json`.
        records: records of this run only.
        hashes: SHA-256 by description of the weights.
        parameters: number of parameters of the encoder.
        license_data: its YAML license fields, see `license_fields`.
    """
    fields = ModelCardData(
        **license_data,
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        tags=[*TAGS, experiment.method],
        datasets=[experiment.dataset] if experiment.dataset.count("/") == 1 else None,
        model_name=repo.partition("/")[2],
        eval_results=eval_results(records) or None,
    )
    parts = (
        _first_section(repo, experiment, seed, parameters, license_data),
        _scores(repo, records),
        _preprocessing(experiment),
        _limits(experiment, run),
        _training(experiment, seed, run, hashes),
    )
    return f"---\n{fields.to_yaml()}\n---\n" + "\n".join(parts)


def license_fields(experiment: Experiment) -> dict[str, Any]:
    """Return the YAML license fields: those of the training dataset's card, or a link if it is not on this machine.

    Raises:
        UserError: the local card of the dataset cannot be read.
    """
    link = f"https://huggingface.co/datasets/{experiment.dataset}"
    unknown = {"license": "other", "license_name": "terms-of-its-training-data", "license_link": link}
    try:
        folder = dataset_folder(experiment.dataset, experiment.revision)
    except MissingDataset:
        return unknown
    path = folder / schema.CARD
    if not path.is_file() or schema.read_manifest(folder).revision != experiment.revision:
        return unknown
    try:
        fields = DatasetCard.load(path, ignore_metadata_errors=True).data.to_dict()
    except Exception as error:  # whatever the YAML parser raises
        raise UserError(
            f"{path} is not a valid dataset card ({error!s:.200}); rebuild or download the dataset again"
        ) from None
    return {name: fields[name] for name in LICENSE_FIELDS if name in fields} if "license" in fields else unknown


def eval_results(records: Sequence[Record]) -> list[EvalResult]:
    """Return the main score of every dataset in the Hub's `model-index` format, as fractions of one.

    The Hub merges entries of one dataset, revision and split, so the metric's name includes the protocol.
    """
    return [
        EvalResult(
            task_type=TASKS.get(record.evaluation.name, "image-classification"),
            dataset_type=result.dataset.repo,
            dataset_name=f"{result.dataset.repo} at {result.dataset.revision}",
            dataset_split=result.dataset.split,
            dataset_revision=result.dataset.revision,
            metric_type=result.main,
            metric_name=f"{record.evaluation.name} ({record.evaluation.preset}) on {dataset}: {result.main}",
            metric_value=score.value,
            metric_args={"n": score.n, "low": score.low, "high": score.high},
        )
        for record in records
        for dataset, result in record.results.items()
        if isinstance(result, Measured)
        for score in (result.scores[result.main],)
    ]


def _first_section(
    repo: str, experiment: Experiment, seed: int, parameters: int, license_data: Mapping[str, Any]
) -> str:
    vit = experiment.encoder
    pixels = f"{vit.image_size} x {vit.image_size}"
    return f"""# {cards.escape(repo)}

**An image encoder**: a ViT of {parameters:,} parameters that returns {vit.width} features of an image. It was trained
from scratch by **{cards.escape(experiment.method)}** on {_dataset(experiment)}, and has neither a classifier nor a text
tower.

```python
import timm

model = timm.create_model("hf_hub:{repo}", pretrained=True).eval()
settings = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**settings, is_training=False)
features = model(transform(image).unsqueeze(0))  # image: PIL, RGB; features: (1, {vit.width})
```

- **Made for** comparing methods and training datasets under equal compute, with the features frozen: linear probe,
  kNN, few-shot.
- **Not for** decisions about people, nor as a general-purpose encoder: it is one seed of one experiment, and saw only
  its training dataset, at {pixels} pixels.
- **License**: {_license(license_data)}, the terms of the training dataset, from which the weights are derived.
- **Provenance**: experiment {cards.escape(experiment.name)}, version {experiment.version}, seed {seed}, of
  SynRep-Bench ([training](#training)).
"""


def _dataset(experiment: Experiment) -> str:
    """Return the name of the training dataset, as a link if it is a plain repository on the Hub."""
    name = cards.escape(experiment.dataset)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", experiment.dataset):
        return f"[{name}](https://huggingface.co/datasets/{experiment.dataset})"
    return name


def _license(license_data: Mapping[str, Any]) -> str:
    name = cards.escape(" ".join(str(license_data[field]) for field in LICENSE_FIELDS[:2] if field in license_data))
    return f"{name} ({cards.link(str(license_data['license_link']))})" if "license_link" in license_data else name


def _preprocessing(experiment: Experiment) -> str:
    vit, transform = experiment.encoder, EvaluationTransform(experiment.encoder.image_size)
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (transform.mean, transform.std))
    pixels = round(transform.size * transform.zoom)
    return f"""## Input and output

The short side of an image is resized to {pixels} pixels ({transform.interpolation}), the center is cropped, and RGB in
[0, 1] is normalized with mean ({mean}) and standard deviation ({std}).

The encoder has patches of {vit.patch} pixels, width {vit.width}, depth {vit.depth} and {vit.heads} heads. Its output is
the CLS token after the final norm. `forward_features` returns all tokens.
"""


def _training(experiment: Experiment, seed: int, run: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    sampling, schedule = experiment.settings.sampling, experiment.schedule
    rows = [
        ("experiment", f"{cards.escape(experiment.name)}, version {experiment.version}, seed {seed}"),
        ("method", cards.escape(experiment.method)),
        ("dataset", f"{cards.escape(experiment.dataset)} at revision {cards.code(experiment.revision)}"),
        ("sha256 of the dataset's rows", cards.code(str(run["content_sha256"]))),
        (
            "views per caption",
            f"{sampling.views} ({sampling.images_per_caption} images x {sampling.crops_per_image} crops)",
        ),
        ("views seen", f"{schedule.steps * schedule.batch_views:,}"),
        ("views per batch", f"{schedule.batch_views:,}"),
        ("fingerprint of the declaration", f"`{create.fingerprint(experiment)}`"),
        *((f"sha256 of the weights {cards.escape(which)}", f"`{sha256}`") for which, sha256 in hashes.items()),
    ]
    recorded = diagnostics.record_fields(run)
    rows += [(f"{cards.escape(name)} at the end", f"{value:.4g}") for name, value in recorded.get("health", {}).items()]
    if "spikes" in recorded:
        rows.append(("loss spikes", str(recorded["spikes"])))
    return f"""## Training

<details>
<summary>Declaration, checksums and diagnostics of the run</summary>

{cards.table(("", ""), *rows)}

</details>
"""


def _scores(repo: str, records: Sequence[Record]) -> str:
    """Return the main score of every dataset as a table, and all scores with their sources as a folded one."""
    main, every = [], []
    missing: dict[str, list[str]] = {}
    for record in records:
        name, preset = record.evaluation.name, record.evaluation.preset
        for dataset, result in record.results.items():
            if isinstance(result, NotMeasured):
                missing.setdefault(name, []).append(dataset)
                continue
            labels = tuple(map(cards.escape, (name, preset, dataset)))
            source = f"{result.dataset.repo} at {result.dataset.revision}, {result.dataset.split}"
            for metric, score in result.scores.items():
                percent = f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"
                every.append((*labels, cards.escape(source), cards.escape(metric), percent, f"{score.n:,}"))
                if metric == result.main:
                    chance = f"{100 * result.chance:.1f}"
                    main.append((*labels, cards.escape(metric), percent, chance, f"{score.n:,}"))
    if not every:
        return "## Scores\n\nNot measured.\n"
    labels = ("evaluation", "preset", "dataset")
    unmeasured = "".join(f"\n- {cards.escape(name)}: {cards.escape(', '.join(of))}" for name, of in missing.items())
    return f"""## Scores

Scores of the frozen encoder, layer `cls`. The preset names the protocol. Intervals are over the samples of a test set,
not over seeds.

{cards.table((*labels, "score", "percent [95 %]", "chance", "n"), *main)}

<details>
<summary>All scores, the revisions of the evaluation sets, and what was not measured</summary>

{cards.table((*labels, "source", "score", "percent [95 %]", "n"), *every)}

Not measured:
{unmeasured or "nothing."}

</details>

`synrep evaluate hub:{repo}@<commit>` measures them again, with the commit that you use.
"""


def _limits(experiment: Experiment, run: Mapping[str, Any]) -> str:
    collapsed = diagnostics.collapse_warning(run.get("health", {}))
    warning = f"- **Its {cards.escape(collapsed)}**: it hardly distinguishes images.\n" if collapsed else ""
    return f"""## Limits

{warning}- It was trained on {cards.escape(experiment.dataset)} only. Images generated from captions have the biases and
  omissions of the captions and of the text-to-image model; the features may have them too.
- It was evaluated only on the datasets in the table above. Nothing was done to make it fair or safe.
"""
