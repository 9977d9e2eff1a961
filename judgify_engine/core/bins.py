"""Bins of a distribution of confidences, made of a histogram's slots. Pure.

A bin is a whole number of slots, so its count is exact and bins of histograms can be added up. It begins with the slot that
holds 0.05, 0.1, 0.15 …, a little (at most 2 %) below: a confidence of exactly 0.9 is in the bin that begins at 0.884.
"""

from bisect import bisect_right
from collections.abc import Mapping

from judgify_engine.core.histogram import BOUNDS, MILLIONTHS, slot_of

BINS = 20
FIRST_SLOTS = (0, *(slot_of(MILLIONTHS * number // BINS) for number in range(1, BINS)))
"""The slot that each bin begins with; the last bin holds 1, too."""
FROM_PPM = (0, *(BOUNDS[slot - 1] for slot in FIRST_SLOTS[1:]))
"""The smallest value of each bin, in millionths."""


def binned(histogram: Mapping[int, int]) -> dict[int, int]:
    """Bin to count, of the bins that hold something. `histogram`: slot to count."""
    found: dict[int, int] = {}
    for slot, count in histogram.items():
        number = max(0, bisect_right(FIRST_SLOTS, slot) - 1)
        found[number] = found.get(number, 0) + count
    return found
