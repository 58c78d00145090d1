"""Dataset cards: contents, recipe, terms and citation of a finished dataset.

The YAML header names the Parquet files of each split, so that `datasets.load_dataset` needs no loading script.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from benchmark import schema
from benchmark.files import describe_bytes
from benchmark.hub import cards
from datasets_scripts.generation import provenance
from datasets_scripts.generation.generate import COLUMNS, IMAGE
from datasets_scripts.text_to_image import UNDECLARED, Terms

SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")
"""Bounds of the Hub's size categories."""
TASKS = ("image-feature-extraction", "zero-shot-image-classification", "text-to-image")
TAGS = ("synthetic", "stablerep", "synrep-bench", "image", "text")

SYNTHETIC = """\
**Synthetic images from captions**, for learning visual representations as in StableRep
([arXiv 2306.00984](https://arxiv.org/abs/2306.00984)). Every image was computed from its caption; none is a photograph.
A row is one caption with all of its images."""
REAL = """\
**Real images with their captions**, to compare with synthetic ones as in StableRep
([arXiv 2306.00984](https://arxiv.org/abs/2306.00984)). None was generated. A row is one caption with its image, at the
size in which synthetic images are stored."""
SYNTHETIC_USES = """\
- **Made for** pretraining image encoders whose positives are images of one caption, and for comparing text-to-image
  models, guidance scales and numbers of images.
- **Not for** claims about photographs without an evaluation on photographs, nor as labels: an image may not show what
  its caption says. It has the biases and omissions of the captions and of the text-to-image model."""
REAL_USES = """\
- **Made for** training the same methods on real images of the same captions, as the reference of a synthetic dataset.
- **Not for** identifying people, nor as labels: a caption from the web may not describe its image. It has the biases
  and omissions of its source."""
MARKED = """
**Mark of origin**: every image file states in its XMP metadata that it is synthetic (IPTC digital source type
`trainedAlgorithmicMedia` if a trained model drew it, `algorithmicMedia` if a program did); keep the mark.
"""


def card(
    manifest: schema.Manifest,
    statistics: dict[str, Any],
    terms: Sequence[Terms],
    samples: Sequence[str],
) -> str:
    """Return the card as Markdown with a YAML header.

    Args:
        manifest: Manifest of the dataset; the card shows the contact sheet if `files` lists one.
        statistics: Contents of `schema.STATISTICS`.
        terms: Terms of the captions and of the text-to-image model.
        samples: Captions to show, such as those on the contact sheet.
    """
    # Imported here, as build workers do not need huggingface_hub.
    from huggingface_hub import DatasetCardData

    name = manifest.repo.split("/")[-1]
    synthetic = provenance.is_synthetic(manifest.recipe)
    fields: dict[str, Any] = {
        "pretty_name": f"{name}: {'synthetic' if synthetic else 'real'} images from captions",
        "language": ["en"],
        **licence(manifest.repo, terms),
        "tags": [tag for tag in TAGS if synthetic or tag != "synthetic"],
        "task_categories": list(TASKS),
        "size_categories": [size_category(sum(manifest.rows.values()))],
        "source_datasets": ["original"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": s, "path": f"data/{s}-*.parquet"} for s in sorted(manifest.rows)],
            }
        ],
        "dataset_info": {"features": [{"name": column.name} | _feature(column.type) for column in COLUMNS]},
    }
    yaml = DatasetCardData(**fields).to_yaml()
    parts = (
        _first_section(manifest, terms, synthetic),
        _contents_section(manifest, statistics, samples),
        *([_fidelity_section(statistics["fidelity"])] if "fidelity" in statistics else []),
        _columns_section(manifest),
        _terms_section(terms) + (MARKED if synthetic else ""),
        _recipe_section(manifest, statistics),
        _citation_section(manifest),
    )
    return cards.generated(yaml, "\n".join(parts))


def licence(repo: str, terms: Sequence[Terms]) -> dict[str, str]:
    """Return the license fields of the YAML header: the common license if all terms have the same, else "other".

    If any part forbids commercial use, the whole dataset does, and the Hub asks readers to agree (gated access).
    """
    licenses = {each.licence for each in terms}
    commercial = all(each.commercial for each in terms)
    if len(licenses) == 1 and licenses != {"other"} and commercial:
        return {"license": licenses.pop()}
    fields = {
        "license": "other",
        "license_name": "terms-of-its-sources" if commercial else "terms-of-its-sources-non-commercial",
        "license_link": f"https://huggingface.co/datasets/{repo}#terms",
    }
    if not commercial:
        fields["extra_gated_heading"] = "For non-commercial research only"
        fields["extra_gated_prompt"] = (
            f"{_why_non_commercial(terms)} "
            "By asking for access you agree to use it, and anything derived from it, for no other purpose, "
            "and not to try to identify persons."
        )
    return fields


def _why_non_commercial(terms: Sequence[Terms]) -> str:
    """Return sentences that name the material for non-commercial use only, by its terms or because it has none."""
    declared = "; ".join(each.subject for each in terms if not each.commercial and each.licence != UNDECLARED)
    others = "; ".join(each.subject for each in terms if each.licence == UNDECLARED)
    sentences = (
        declared and f"This dataset is made from material for non-commercial research only ({declared}).",
        others and f"Terms of its material are not declared ({others}), so it is treated as non-commercial.",
    )
    return " ".join(filter(None, sentences))


def size_category(rows: int) -> str:
    """Return the Hub's size category of a number of rows."""
    bounds = [int(float(bound[:-1]) * {"K": 1e3, "M": 1e6, "B": 1e9}[bound[-1]]) for bound in SIZES]
    for i, bound in enumerate(bounds):
        if rows < bound:
            return f"{SIZES[i - 1]}<n<{SIZES[i]}" if i else "n<1K"
    return f"n>{SIZES[-1]}"


def _feature(dtype: pa.DataType) -> dict[str, str]:
    """Return the type of a column as the Hub's `dataset_info` names it."""
    if dtype == IMAGE:
        return {"dtype": "image"}
    if pa.types.is_list(dtype):
        return {"list": _feature(dtype.value_type)["dtype"]}
    return {"dtype": {"float": "float32", "double": "float64"}.get(str(dtype), str(dtype))}


def _first_section(manifest: schema.Manifest, terms: Sequence[Terms], synthetic: bool) -> str:
    split = sorted(manifest.rows)[0]
    licenses = list(dict.fromkeys(cards.escape(each.licence) for each in terms))
    together = ", all at once" if len(licenses) > 1 else ""
    forbidding = [each for each in terms if not each.commercial]
    undeclared = forbidding and all(each.licence == UNDECLARED for each in forbidding)
    reason = "Terms not declared, so treated as non-commercial." if undeclared else "Non-commercial use only."
    forbidden = f" **{reason}**" if forbidding else ""
    return f"""# {manifest.repo}

{SYNTHETIC if synthetic else REAL}

```python
from datasets import load_dataset

rows = load_dataset("{manifest.repo}", split="{split}", revision="main")
print(rows[0]["caption"], rows[0]["images"])
```

Replace `main` with the commit that you use, because later versions replace the files. `streaming=True` reads rows
without downloading all of them.

{SYNTHETIC_USES if synthetic else REAL_USES}
- **License**: {", ".join(licenses) or "none declared"}{together} ([terms](#terms)).{forbidden}
- **Provenance**: made by SynRep-Bench from revision `{manifest.revision}` of its [recipe](#recipe), which
  `synrep data check` verifies.
"""


def _contents_section(manifest: schema.Manifest, statistics: dict[str, Any], samples: Sequence[str]) -> str:
    failed = ", ".join(f"{count:,} ({cards.escape(reason)})" for reason, count in sorted(statistics["failed"].items()))
    rows = [
        ("captions", f"{statistics['captions']:,}"),
        ("images", f"{statistics['images']:,}"),
        ("images per caption", f"{manifest.images_per_row:,}"),
        ("not drawn", failed or "0"),
        ("size", describe_bytes(statistics["bytes"])),
        *((f"rows in {cards.escape(split)}", f"{count:,}") for split, count in sorted(manifest.rows.items())),
        *(
            (f"images requested at guidance {cards.escape(str(g))}", f"{n:,}")
            for g, n in _sorted_by_value(statistics["guidance"])
        ),
    ]
    if statistics["nsfw_scored"]:
        hidden = f"{statistics['nsfw_above_zero']:,} of {statistics['nsfw_scored']:,}"
        rows.append(("images that the model's safety checker would have hidden", hidden))
    picture = f"![Some captions and their images]({schema.SHEET})\n\nThe number on an image is its guidance.\n\n"
    sheet = picture if schema.SHEET in manifest.files else ""
    listed = "".join(f"\n- {cards.escape(sample)}" for sample in samples)
    captions = f"\nSome captions:\n{listed}\n" if listed else ""
    return f"""## Contents

{sheet}{cards.table(("property", "value"), *rows)}
{captions}"""


def _sorted_by_value(guidance: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(guidance.items(), key=lambda item: float(item[0]))


def _fidelity_section(fidelity: dict[str, Any]) -> str:
    """Return what an examiner read from the images, as tables.

    Args:
        fidelity: JSON of `scenes.fidelity.of_dataset`.
    """
    shares = [(name, *_percent(share), f"{share['n']:,}") for name, share in fidelity["factors"].items()]
    shares.append(("near duplicates", *_percent(fidelity["near_duplicates"]), f"{fidelity['near_duplicates']['n']:,}"))
    spreads = [
        (name, f"{spread['value']:.2f}", f"{spread['low']:.2f} to {spread['high']:.2f}", _reference(fidelity, name))
        for name, spread in fidelity["diversity"].items()
    ]
    unknown = f" No truth is known about {fidelity['unknown']:,} more." if fidelity["unknown"] else ""
    return f"""## Fidelity

An examiner, trained on rendered images only, read {fidelity["images"]:,} images of {fidelity["captions"]:,}
captions.{unknown} Share of images (objects, relation, background, all) or of objects that are as the caption says:

{cards.table(("factor", "share, %", "95 % interval", "n"), *shares)}

Images of one caption are not independent. Intervals are therefore over captions, not over images.

Spread within a caption, of objects that are as it says: position in pixels, rotation and hue in degrees, features
relative to the distance between captions.

{cards.table(("diversity", "spread", "95 % interval", "rendered images"), *spreads)}
"""


def _percent(share: dict[str, Any]) -> tuple[str, str]:
    return f"{100 * share['value']:.1f}", f"{100 * share['low']:.1f} to {100 * share['high']:.1f}"


def _reference(fidelity: dict[str, Any], name: str) -> str:
    return f"{fidelity['reference'][name]['value']:.2f}" if name in fidelity["reference"] else ""


def _recipe_section(manifest: schema.Manifest, statistics: dict[str, Any]) -> str:
    declaration = [(cards.escape(key), cards.code(str(value))) for key, value in manifest.recipe.items()]
    environment = [
        (kind, cards.escape("; ".join(sorted(statistics[kind]))))
        for kind in ("software", "device")
        if kind in statistics
    ]
    rows = [*declaration, *environment]
    return f"""## Recipe

The same recipe gives the same images again, with the same software on the same kind of device.

<details>
<summary>Every setting of the recipe, software and devices</summary>

{cards.table(("setting", "value"), *rows)}

The seed of an image is 64 bits of BLAKE2b over recipe, caption id and number of the image. It never depends on an order
or a process. Image `i` of a caption has the guidance at place `(caption id + i)` of the schedule, counted cyclically.
Every value is thus equally frequent. A caption's id is the start of its SHA-256.

</details>
"""


def _columns_section(manifest: schema.Manifest) -> str:
    split = sorted(manifest.rows)[0]
    return f"""## Columns

| column | content |
| --- | --- |
| `caption_id`, `caption` | the start of the SHA-256 of the text, as a signed 64-bit number; and the text |
| `source`, `source_id` | origin of the caption, and the address or id of its row there |
| `images` | all images of the caption; null if one could not be drawn or decoded |
| `seeds`, `guidance` | per image; without meaning for real images |
| `status` | per image: "ok", or the reason why it is null |
| `nsfw` | per image: above zero, the model's own safety checker would have hidden it; none is hidden here |

The bytes of an image are uncompressed and contiguous in `data/{split}-*.parquet`. `index/{split}-*.npy` has the offset
and length of each, int64 (rows, {manifest.images_per_row}, 2), to read some images of a row from a local copy or by
HTTP range. `{schema.MANIFEST}` has the SHA-256 of rows, indices and sheet.
"""


def _terms_section(terms: Sequence[Terms]) -> str:
    listed = "\n".join(
        f"- **{cards.escape(each.subject)}** ({cards.escape(each.licence)}"
        f"{_restriction(each)}): {cards.escape(each.text)}"
        f"{f' <{each.url}>' if each.url else ''}"
        for each in terms
    )
    return f"""## Terms

The terms of everything that the dataset is made from apply together:

{listed}
"""


def _restriction(terms: Terms) -> str:
    if terms.commercial:
        return ""
    return ", **treated as non-commercial**" if terms.licence == UNDECLARED else ", **non-commercial use only**"


def _citation_section(manifest: schema.Manifest) -> str:
    return f"""## Citation

```bibtex
@inproceedings{{tian2023stablerep,
  title     = {{StableRep: Synthetic Images from Text-to-Image Models Make Strong Visual Representation Learners}},
  author    = {{Tian, Yonglong and Fan, Lijie and Isola, Phillip and Chang, Huiwen and Krishnan, Dilip}},
  booktitle = {{Advances in Neural Information Processing Systems}},
  year      = {{2023}}
}}
```

Cite this dataset as {manifest.repo} at the commit that you use.
"""
