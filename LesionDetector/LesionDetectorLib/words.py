"""Numbers and lists as a sentence says them, and tables of text."""

from __future__ import annotations

from collections.abc import Sequence

NAMED = 5
"""So many of a long list are named in a sentence."""


def plural(count: int, one: str, several: str = "") -> str:
    """A number of things: "1 slice", "3 slices"; `several` where that is not `one` with an s."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def few(values: Sequence[str]) -> str:
    """The first of `values` for a sentence, and how many more there are."""
    more = [f"and {len(values) - NAMED} more"] if len(values) > NAMED else []
    return ", ".join([*values[:NAMED], *more])


def ranges(numbers: Sequence[int]) -> str:
    """Rising numbers, runs of them drawn together: "3-5, 9" for 3, 4, 5, 9."""
    starts = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    return ", ".join(str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows below a head, columns as wide as they must be; "" for no row."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (head, *rows)]
    return "\n".join(lines)
