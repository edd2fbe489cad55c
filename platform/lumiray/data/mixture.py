"""How many of the first t rows of a run come from each source, in closed form.

Sources are split in two halves, these in two again.  At every split the first half has had floor(t * share + 1/2)
of t rows: it never falls behind or ahead by more than half a row, never goes back, and needs no memory of what
came before.  (Rounding each source's own share would not add up, and differences of rounded sums can go back.)
"""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property

from lumiray.errors import UserError


class Mixture:
    """Error diffusion over sources by weight.

    Args:
        weights: one per source, above 0; only their ratios matter.

    Raises:
        UserError: a weight is not a number above 0.
    """

    def __init__(self, weights: tuple[float, ...]) -> None:
        for weight in weights:
            if not 0 < weight < float("inf"):
                raise UserError(f"The weight of a source in a mixture must be a number above 0, not {weight}.")
        # the decimal that the user wrote, not its binary neighbour: 0.1 is a tenth
        self.weights = tuple(Fraction(str(weight)) for weight in weights)

    @cached_property
    def _sums(self) -> list[Fraction]:
        sums = [Fraction(0)]
        for weight in self.weights:
            sums.append(sums[-1] + weight)
        return sums

    def counts(self, position: int) -> list[int]:
        """Rows of each source among the first `position` rows of the run; they add up to `position`."""
        counts = [0] * len(self.weights)
        self._split(position, 0, len(self.weights), counts)
        return counts

    def first_position(self, source: int, rows: int) -> int:
        """The smallest position at which `source` has had `rows` rows."""
        low, high = 0, 1
        while self.counts(high)[source] < rows:
            high *= 2
        while low < high:
            middle = (low + high) // 2
            if self.counts(middle)[source] < rows:
                low = middle + 1
            else:
                high = middle
        return low

    def _split(self, rows: int, first: int, last: int, counts: list[int]) -> None:
        if last - first == 1:
            counts[first] = rows
            return
        middle = (first + last) // 2
        share = (self._sums[middle] - self._sums[first]) / (self._sums[last] - self._sums[first])
        # floor(rows * share + 1/2) in whole numbers
        left = (2 * rows * share.numerator + share.denominator) // (2 * share.denominator)
        self._split(left, first, middle, counts)
        self._split(rows - left, middle, last, counts)
