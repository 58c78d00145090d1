"""Chunks of rows, so that the memory of a computation over N rows does not grow with N.

Write what a chunk leaves into one array. A list of small arrays, each allocated among the large ones of its chunk,
keeps the allocator from using their memory again.
"""

WHOLE = 2**23
"""Largest result that is computed at once, in numbers; all datasets but ImageNet and SUN397 of MTEB are below."""
CHUNK = {"cpu": 2**18, "cuda": 2**25}
"""Numbers in the result of a chunk: those of a CPU fit its cache, those of a GPU keep it busy."""


def row_chunks(rows: int, width: int, device_type: str = "cpu") -> list[slice]:
    """Return consecutive slices over `rows` rows, whose result has `width` numbers each.

    They have equal sizes but for the last.
    """
    count = -(-rows * width // CHUNK[device_type]) if rows * width > WHOLE else 1
    size = max(1, -(-rows // count))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
