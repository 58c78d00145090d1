"""The card of a released encoder: what it is, how to load it, its scores, its limits and its terms.

Scores stand twice: in the YAML's `model-index`, which the Hub reads, and as a table with n and intervals.
"""

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
TASK = "image-classification"
"""What all evaluations of an encoder alone come down to."""
TERMS = ("license", "license_name", "license_link")


def card(
    repo: str,
    experiment: Experiment,
    seed: int,
    *,
    run: Mapping[str, Any],
    records: Sequence[Record],
    hashes: Mapping[str, str],
    parameters: int,
) -> str:
    """The card as Markdown with YAML.

    Args:
        repo: where it goes on the Hub.
        experiment: what was declared.
        seed: of the run.
        run: its `model.json`.
        records: of this run, and of no other.
        hashes: which weights -> SHA-256.
        parameters: how many the encoder has.
    """
    terms = licence(experiment)
    fields = ModelCardData(
        **terms,
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        tags=[*TAGS, experiment.method],
        datasets=[experiment.dataset] if experiment.dataset.count("/") == 1 else None,
        model_name=repo.partition("/")[2],
        eval_results=eval_results(records) or None,
    )
    parts = (
        _what(repo, experiment, parameters),
        _loading(repo, experiment),
        _training(experiment, seed, run, hashes),
        _scores(records),
        _limits(experiment, run),
        _terms(experiment, terms),
    )
    return f"---\n{fields.to_yaml()}\n---\n" + "\n".join(parts)


def licence(experiment: Experiment) -> dict[str, Any]:
    """The YAML about terms: those of the training data by its own card, or a link to them where it is not here.

    Raises:
        UserError: the card of the dataset on this machine cannot be read.
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
    except Exception as error:  # of the parser of YAML, which is another package's
        raise UserError(f"{path} is not the card of a dataset ({error!s:.200}); build or download it again") from None
    return {name: fields[name] for name in TERMS if name in fields} if "license" in fields else unknown


def eval_results(records: Sequence[Record]) -> list[EvalResult]:
    """Every score of every dataset, as the Hub's `model-index` takes them; fractions of one.

    The index joins what has one dataset, revision and split, so a metric's own name says all of its protocol.
    """
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=result.dataset.repo,
            dataset_name=f"{result.dataset.repo} at {result.dataset.revision}",
            dataset_split=result.dataset.split,
            dataset_revision=result.dataset.revision,
            metric_type=metric,
            metric_name=f"{record.evaluation.name} ({record.evaluation.preset}) on {dataset}: {metric}",
            metric_value=score.value,
            metric_args={"n": score.n, "low": score.low, "high": score.high},
        )
        for record in records
        for dataset, result in record.results.items()
        if isinstance(result, Measured)
        for metric, score in result.scores.items()
    ]


def _what(repo: str, experiment: Experiment, parameters: int) -> str:
    size = experiment.encoder
    pixels = f"{size.image_size} x {size.image_size}"
    return f"""# {cards.escape(repo)}

An image encoder, trained by SynRep-Bench: method **{cards.escape(experiment.method)}**, dataset
{cards.escape(experiment.dataset)}. It is a ViT of {parameters:,} parameters: patches of {size.patch} pixels, width
{size.width}, depth {size.depth}, {size.heads} heads, images of {pixels} pixels. Its output is the CLS token after the
final norm, {size.width} numbers per image; there is no classifier and no text tower.
"""


def _loading(repo: str, experiment: Experiment) -> str:
    transform = EvaluationTransform(experiment.encoder.image_size)
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (transform.mean, transform.std))
    return f"""## Loading

```python
import timm

model = timm.create_model("hf_hub:{repo}", pretrained=True).eval()
data = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**data, is_training=False)
features = model(transform(image).unsqueeze(0))  # of a PIL image in RGB: (1, {experiment.encoder.width})
```

`forward_features` gives all tokens. An image's short side becomes {round(transform.size * transform.zoom)} pixels
({transform.interpolation}), the centre is cut out, RGB in [0, 1] is normalised by mean ({mean}) and deviation ({std}).

To measure it again: `synrep evaluate hub:{repo}@<commit>`. Give the commit that you use.
"""


def _training(experiment: Experiment, seed: int, run: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    sampling, schedule = experiment.settings.sampling, experiment.schedule
    rows = [
        ("experiment", f"{cards.escape(experiment.name)}, version {experiment.version}, seed {seed}"),
        ("method", cards.escape(experiment.method)),
        ("dataset", f"{cards.escape(experiment.dataset)} at revision {cards.code(experiment.revision)}"),
        ("sha256 of the dataset's rows", cards.code(str(run["content_sha256"]))),
        ("views of a caption", f"{sampling.views} ({sampling.images} x {sampling.crops}: images, crops of each)"),
        ("views seen", f"{schedule.steps * schedule.batch_views:,}"),
        ("views in a batch", f"{schedule.batch_views:,}"),
        ("fingerprint of the declaration", f"`{create.fingerprint(experiment)}`"),
        *((f"sha256 of the weights {cards.escape(which)}", f"`{sha256}`") for which, sha256 in hashes.items()),
    ]
    seen = diagnostics.record_fields(run)
    rows += [(f"{cards.escape(name)} at the end", f"{value:.4g}") for name, value in seen.get("health", {}).items()]
    if "spikes" in seen:
        rows.append(("spikes of the loss", str(seen["spikes"])))
    return f"## Training\n\n{cards.table(('', ''), *rows)}\n"


def _scores(records: Sequence[Record]) -> str:
    rows, missing = [], []
    for record in records:
        name, preset = record.evaluation.name, record.evaluation.preset
        for dataset, result in record.results.items():
            if isinstance(result, NotMeasured):
                missing.append(f"{name} on {dataset}")
                continue
            where = f"{result.dataset.repo} at {result.dataset.revision}, {result.dataset.split}"
            for metric, score in result.scores.items():
                shown = f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"
                chance = f"{100 * result.chance:.1f}" if metric == result.main else ""
                words = [*map(cards.escape, (name, preset, dataset, where, metric))]
                rows.append((*words, shown, chance, f"{score.n:,}"))
    if not rows:
        return "## Scores\n\nNot measured.\n"
    heads = ("evaluation", "preset", "dataset", "read from", "score", "percent [95 %]", "chance", "n")
    rest = f"\nNot measured: {cards.escape(', '.join(missing))}.\n" if missing else ""
    return f"""## Scores

Of the frozen encoder, layer `cls`; the preset names the protocol. Intervals are over the samples of a test set, not
over seeds: this is one seed.

{cards.table(heads, *rows)}
{rest}"""


def _limits(experiment: Experiment, run: Mapping[str, Any]) -> str:
    collapsed = diagnostics.collapse_warning(run.get("health", {}))
    warning = f"- **Its {cards.escape(collapsed)}**: it can hardly tell images apart.\n" if collapsed else ""
    return f"""## Limits

{warning}- It was trained on {cards.escape(experiment.dataset)} alone. Images generated from captions show what the
  captions name as the text-to-image model draws it, with the biases and omissions of both; so may these features.
- It was measured on what the table above names and on nothing else. Nothing was done to make it fair or safe, and it
  was not made for decisions about persons.
- It is one seed of one experiment, for comparing methods and datasets under equal compute.
"""


def _terms(experiment: Experiment, terms: Mapping[str, Any]) -> str:
    kind = " ".join(str(terms[name]) for name in ("license", "license_name") if name in terms)
    link = f" ({cards.link(str(terms['license_link']))})" if "license_link" in terms else ""
    return f"""## Terms

The weights are computed from {cards.escape(experiment.dataset)} and are given under its terms:
{cards.escape(kind)}{link}.
"""
