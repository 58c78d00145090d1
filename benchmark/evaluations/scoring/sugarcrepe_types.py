"""SugarCrepe's seven types of false captions, joined to the rows of the copy on the Hub by their two captions.

The copy has no types; the authors' files have, one file per type. The user places them in `originals/sugarcrepe/`.

Shapes: N rows.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmark.errors import MissingDataset, UserError
from benchmark.files import read_json
from benchmark.mirror import ORIGINALS, dataset_folder

TYPES = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
"""Types in the order of their numbers in the predictions."""
SHORTER = "shorter caption"
"""Name in `details` of the scores of choosing the shorter caption."""
SOURCE = "https://github.com/RAIVNLab/sugar-crepe (data/<type>.json)"
HOW = f"place the seven files of {SOURCE} in {ORIGINALS}/sugarcrepe/"
Pair = tuple[str, str]
"""A true caption and its false one."""


def join(pairs: Sequence[Pair]) -> np.ndarray | None:
    """Return the number of each row's type (N,), or None if the authors' files are not on this machine.

    If two types share a pair of captions, their rows have the order of `TYPES`.

    Raises:
        UserError: a file is missing or damaged, or the files and the rows have different captions.
    """
    try:
        folder = dataset_folder(f"{ORIGINALS}/sugarcrepe", "", HOW)
    except MissingDataset:
        return None
    types_of: defaultdict[Pair, list[int]] = defaultdict(list)
    for number, name in enumerate(TYPES):
        for pair in _read(folder / f"{name}.json"):
            types_of[pair].append(number)
    found, expected = Counter(pairs), {pair: len(numbers) for pair, numbers in types_of.items()}
    if found != expected:
        different = next(pair for pair in (*found, *expected) if found[pair] != expected.get(pair, 0))
        raise UserError(
            f"expected the {len(pairs):,} pairs of captions of the dataset in {folder}, found "
            f"{sum(expected.values()):,}, of which {different} differs; {HOW}"
        )
    remaining = {pair: iter(numbers) for pair, numbers in types_of.items()}
    return np.array([next(remaining[pair]) for pair in pairs])


def _read(path: Path) -> list[Pair]:
    """Return the pairs of captions of one of the authors' files."""
    try:
        rows = read_json(path)
        return [(str(row["caption"]), str(row["negative_caption"])) for row in rows.values()]
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path}: expected a JSON object of rows with caption and negative_caption ({reason}); {HOW}"
        ) from None
