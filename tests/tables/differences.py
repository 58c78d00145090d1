"""Paired differences that are known without predictions."""

from collections.abc import Sequence

from benchmark.pairs import Column, Interval, Pairs
from benchmark.ranking import scores
from benchmark.record import Record


class Known(Pairs):
    """Every difference is known to within `half`."""

    def __init__(self, half: float) -> None:
        super().__init__()
        self._half = half

    def difference(
        self, first: Sequence[Record], second: Sequence[Record], columns: Sequence[Column]
    ) -> Interval | None:
        one, other = scores([first, second], columns).mean(axis=1)
        return Interval(one - other, one - other - self._half, one - other + self._half)
