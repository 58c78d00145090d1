"""What a table is made from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmark.analysis.paired import Pairs
from benchmark.published import Fact, Published
from benchmark.records.schema import Record


@dataclass(frozen=True)
class Material:
    """Records, the paired differences between their models, and what others published."""

    records: Sequence[Record]
    pairs: Pairs = field(default_factory=Pairs)
    published: Sequence[Published] = ()
    facts: Sequence[Fact] = ()
