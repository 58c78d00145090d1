"""The example cards of docs/examples: a dataset, a model, records and a Space, as the Hub shows them.

`python -m tests.example_cards` writes them; `test_example_cards.py` fails if one of them is stale. The model and the
records are those of results/. The dataset is `toy-200`; `example_dataset.json` has its manifest, some captions, and
its statistics without times and machines. `python -m tests.example_cards data/synrep-bench/scenes-toy-200` takes them
from a new build.
"""

import io
import re
import sys
from pathlib import Path

from PIL import Image

from benchmark import experiments, schema
from benchmark.files import read_json, write_bytes, write_json
from benchmark.interfaces import Model
from benchmark.nn.encoders import build_vit
from benchmark.records import store, table
from benchmark.release import encoder, model_card
from benchmark.reports.site import space
from benchmark.submission.exchange import TABLE
from datasets_scripts import recipe
from datasets_scripts.inspection import contact_sheet
from datasets_scripts.publishing import card

ROOT = Path(__file__).parents[1]
FOLDER, RECORDS = ROOT / "docs" / "examples", ROOT / "results" / "records"
FACTS = ROOT / "tests" / "fixtures" / "example_dataset.json"
DATASET, MODEL, RESULTS = "toy-200", "org/stablerep-scenes", "org/records"
COMPARISON, EXPERIMENT = "main-smoke-scenes-1x", "main-smoke-scenes-1x/stablerep-syn"
MACHINE = ("device", "software", "seconds", "images_per_second", "units")
"""Statistics that differ between machines."""
CARDS = ("dataset_card", "model_card", "results_card", "space_card")


def read_facts(folder: Path) -> None:
    """Write the facts and the contact sheet of a built dataset."""
    statistics = read_json(folder / schema.STATISTICS)
    facts = {
        "manifest": schema.read_manifest(folder).as_json(),
        "statistics": {name: value for name, value in statistics.items() if name not in MACHINE},
        "samples": [row[schema.CAPTION] for row in contact_sheet.card_rows(next(folder.glob("data/*")))],
    }
    write_json(FACTS, facts)
    sheet = io.BytesIO()
    Image.open(folder / schema.SHEET).convert("RGB").quantize(128).save(sheet, "PNG", optimize=True)
    write_bytes(FOLDER / schema.SHEET, sheet.getvalue())


def dataset_card() -> str:
    """Return the card of the example dataset."""
    facts, found = read_json(FACTS), recipe.find(DATASET, ROOT / "data")
    terms = (*found.captions.terms, *found.text_to_image.terms)
    return card.card(schema.Manifest(**facts["manifest"]), facts["statistics"], terms, facts["samples"])


def example_model_card() -> str:
    """Return the card of the first seed of an experiment with records in results/."""
    (experiment,) = (each for each in experiments.find(COMPARISON) if each.name == EXPERIMENT)
    first = store.read_all(RECORDS / EXPERIMENT / str(experiment.version) / "0")[0]
    model = Model(build_vit(experiment.encoder))
    weights = first.model.weights_sha256
    assert first.training is not None
    terms = recipe.find("toy").text_to_image.terms
    return model_card.card(
        MODEL,
        experiment,
        0,
        run=first.training.model_dump(),
        records=encoder.find_records(experiment, 0, model, weights, RECORDS),
        hashes={"of the run, including heads": weights},
        parameters=sum(parameter.numel() for parameter in model.vit.parameters()),
        license_data=card.licence(experiment.dataset, terms),
    )


def results_card() -> str:
    """Return the card of a repository with the records of one comparison."""
    records = store.read_all(RECORDS / COMPARISON)
    return table.card(RESULTS, {f"records/{store.relative_path(record)}": record for record in records}, TABLE)


def all_cards() -> dict[str, str]:
    """Return the name of each example -> its card."""
    return dict(zip(CARDS, (dataset_card(), example_model_card(), results_card(), space.space_card()), strict=True))


def as_page(text: str) -> str:
    """Return a card as a page of the documentation: the text first, then the YAML header, which the Hub reads."""
    header, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    body = re.sub(r"^<!--.*-->\n+", "", body, flags=re.MULTILINE).strip()
    body = body.replace("<details>", '<details markdown="1">')  # python-markdown needs it, GitHub ignores it
    return f"{body}\n\n## Metadata\n\nThe header of this card, which the Hub reads:\n\n```yaml\n{header}\n```\n"


def main() -> None:
    """Write the examples."""
    if sys.argv[1:]:
        read_facts(Path(sys.argv[1]))
    for name, text in all_cards().items():
        write_bytes(FOLDER / f"{name}.md", as_page(text).encode())


if __name__ == "__main__":
    main()
