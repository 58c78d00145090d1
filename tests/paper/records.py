"""Records of experiments in the paper's comparisons, and paired differences that are known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmark import published
from benchmark.interfaces import DatasetScores
from benchmark.pairs import Column, Interval, Pairs
from benchmark.record import Record
from benchmark.tables._material import Material
from tests.tables.conftest import Knobs, measured, record

RESULTS = Path(__file__).parents[2] / "results"
NUMBERS = published.read(RESULTS / "published.csv")
FACTS = published.read_facts(RESULTS / "published_facts.csv")
PROBE, STABLEREP, BN = (("linear_probe", preset, 2) for preset in ("synclr", "stablerep", "stablerep-bn"))


def run(
    name: str,
    scores: Mapping[str, float | DatasetScores],
    protocol: tuple[str, str, int] = PROBE,
    data: str = "scenes-toy",
    shots: int = 5,
    **changes: Any,
) -> Record:
    """A record of `name`, such as `main-smoke-scenes-1x/simclr-real`, whose method is the row's first word."""
    evaluation, preset, version = protocol
    number = version

    @dataclass(frozen=True)
    class Versioned(Knobs):
        version: ClassVar[int] = number

    found = {each: measured(value) if isinstance(value, float) else value for each, value in scores.items()}
    method = name.rpartition("/")[2].partition("-")[0]
    return record(
        method,
        found,
        evaluation=evaluation,
        protocol=Versioned(preset=preset, shots=shots),
        name=name,
        dataset=f"synrep-bench/{data}",
        **changes,
    )


class Apart(Pairs):
    """Differences by the names of the two experiments' last words; the others are told apart."""

    def __init__(self, **known: bool | None) -> None:
        super().__init__()
        self._known = known

    def difference(self, first: Sequence[Record], second: Sequence[Record], columns: Sequence[Column]) -> Any:
        words = sorted(records[0].experiment.name.rpartition("/")[2].partition("-")[0] for records in (first, second))
        apart = self._known.get("_".join(words), True)
        return None if apart is None else Interval(0.1, 0.05 if apart else -0.05, 0.2)


def material(records: Sequence[Record] = (), pairs: Pairs | None = None, **changes: Any) -> Material:
    """Records beside the committed published numbers."""
    return Material(records, pairs or Apart(), **({"published": NUMBERS, "facts": FACTS} | changes))


SMOKE = [
    run("ablations-smoke-images/simclr-l1", {"scenes-shape": 0.5, "scenes-colour": 0.9}),
    run("ablations-smoke-images/stablerep-l2", {"scenes-shape": 0.6, "scenes-colour": 0.9}),
    run("ablations-smoke-images/stablerep-l10", {"scenes-shape": 0.7, "scenes-colour": 0.8}),
    run("ablations-smoke-positives/stablerep-m2", {"scenes-shape": 0.61}),
    run("ablations-smoke-guidance/stablerep-small", {"scenes-shape": 0.62}, data="scenes-toy-small"),
    run("ablations-smoke-encoder/stablerep-large", {"scenes-shape": 0.63}),
    run("ablations-smoke-epochs/stablerep-3x", {"scenes-shape": 0.64}, views=18_000),
    run("main-smoke-scenes-1x/simclr-real", {"scenes-shape": 0.51}, data="scenes-toy-real"),
    run("main-smoke-scenes-1x/simclr-syn", {"scenes-shape": 0.52}, data="scenes-toy-l1-w8"),
    run("main-smoke-scenes-1x/clip-syn", {"scenes-relation": 0.3}, ("aro", "synrep-strict", 2)),
    run("main-smoke-scenes-1x/stablerep-syn", {"scenes-kinds": 0.4}, ("few_shot", "ssl-transfer", 2)),
    *(
        run(f"ablations-smoke-real-scenes/{method}-{images}", {"scenes-shape": value}, data=f"scenes-toy-{data}")
        for method, value in (("mocov3", 0.4), ("simclr", 0.5), ("byol", 0.45))
        for images, data in (("real", "real"), ("syn", "l1-w8"))
    ),
    *(
        run(
            f"language-smoke-guidance/clip-{row}", {"scenes-colour": value}, ("zero_shot", "openai", 1),
            data=f"scenes-toy-{row}",
        )
        for row, value in (("real", 0.6), ("w1", 0.5), ("w2", 0.55), ("w10", 0.3))
    ),
    *(
        run(f"language-smoke-captions/{method}-{count}", {"scenes-shape": value}, data=f"scenes-toy-{count}{real}")
        for method, real, low in (("stablerep_plus", "-l2", 0.4), ("clip", "-real", 0.3))
        for count, value in (("200", low), ("600", low + 0.1), ("2k", low + 0.2))
    ),
    run("smoke/simclr", {"scenes-shape": 0.99}),
]  # fmt: skip
"""One seed of something for every table that the smallest size fills."""
