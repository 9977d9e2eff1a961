"""Figures for people and for programs: percentiles, a small table, JSON."""

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PERCENTILES = (50.0, 90.0, 95.0, 99.0)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of `ordered` (ascending) do not exceed; NaN of nothing."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def spread_ms(values_s: Sequence[float]) -> dict[str, float]:
    """p50, p90, p95, p99, max and mean of times in seconds, as milliseconds."""
    ordered = sorted(values_s)
    figures = {f"p{percent:g}_ms": percentile(ordered, percent) * 1000 for percent in PERCENTILES}
    figures["max_ms"] = ordered[-1] * 1000 if ordered else math.nan
    figures["mean_ms"] = sum(ordered) / len(ordered) * 1000 if ordered else math.nan
    return figures


def median(values: Sequence[float]) -> float:
    """The middle value (the mean of the two middle ones); NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def slope_per_s(times_s: Sequence[float], values: Sequence[float]) -> float:
    """The least-squares slope of `values` over `times_s`; 0 with fewer than two points."""
    if len(times_s) < 2:
        return 0.0
    mean_t, mean_v = sum(times_s) / len(times_s), sum(values) / len(values)
    square = sum((t - mean_t) ** 2 for t in times_s)
    return sum((t - mean_t) * (v - mean_v) for t, v in zip(times_s, values, strict=True)) / square if square else 0.0


def show(value: object) -> str:
    """One cell: thousands apart, as many decimals as one reads."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return "-"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}" if abs(value) >= 100 else f"{value:,.2f}"
    return f"{value:,}"


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns with their heads; the first to the left, the others to the right."""
    cells = [list(heads), *([show(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def pairs(figures: Mapping[str, object]) -> str:
    """One figure a line."""
    width = max(map(len, figures), default=0)
    return "\n".join(f"{name:<{width}}  {show(value)}" for name, value in figures.items())


def write_json(figures: Mapping[str, Any], to: str | None) -> None:
    """Write `figures` to the file `to`, or to standard output for `-`; nothing for None. NaN becomes null."""
    if to is None:
        return
    text = json.dumps(_plain(figures), indent=2)
    if to == "-":
        print(text, file=sys.__stdout__)
        return
    with open(to, "w", encoding="utf-8") as file:
        file.write(text + "\n")


@contextlib.contextmanager
def tables_apart(to: str | None) -> Iterator[None]:
    """Where the JSON goes to standard output, let what people read go to standard error."""
    with contextlib.redirect_stdout(sys.stderr) if to == "-" else contextlib.nullcontext():
        yield


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return None if math.isnan(value) or math.isinf(value) else round(value, 6)
    return value


def note(text: str) -> None:
    """Say something to the person who watches, apart from the figures (stderr)."""
    print(text, file=sys.stderr, flush=True)
