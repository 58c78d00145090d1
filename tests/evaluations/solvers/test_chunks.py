import pytest

from benchmark.evaluations.solvers import chunks
from benchmark.evaluations.solvers.chunks import row_chunks


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1000, 3), (7, 10**9), (1_281_167, 1000), (50_000, 10_000)])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_chunks_are_all_rows_in_order_and_small(rows: int, width: int, device: str):
    parts = row_chunks(rows, width, device)
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert (parts[0].start, parts[-1].stop) == (0, rows)
    sizes = [part.stop - part.start for part in parts]
    assert min(sizes) > 0 and len(set(sizes[:-1])) <= 1
    assert max(sizes) == 1 or max(sizes) * width <= max(chunks.WHOLE * (len(parts) == 1), chunks.CHUNK[device] + width)


def test_a_result_below_the_limit_is_one_chunk():
    assert row_chunks(75_750, 101) == [slice(0, 75_750)]
    assert len(row_chunks(75_750, 111)) > 1
    assert row_chunks(0, 5) == []
