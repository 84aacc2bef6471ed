"""The Beta distribution: what is known of a rate after so many observations of each kind.

The regularised incomplete beta function I_x(a, b) by its continued fraction (DLMF 8.17.22), evaluated with
Lentz's method; quantiles by bisection on it, because it is monotone and that cannot fail to converge.
"""

from __future__ import annotations

import math
from typing import Final

_TERMS_MAX: Final = 10_000
"""The fraction converges in about sqrt(max(a, b)) terms on the side that is asked: enough for 10**8."""
_PRECISION: Final = 1e-15
_TINY: Final = 1e-300
"""In place of a zero denominator, as Lentz's method wants."""
_HALVINGS: Final = 60
"""Of the unit interval: down to the precision of a float near 1."""


def beta_cdf(x: float, a: float, b: float) -> float:
    """I_x(a, b): the probability that a Beta(a, b) rate is at most ``x``. Raises ValueError unless
    ``a`` and ``b`` are above 0 and finite, ArithmeticError should the fraction not converge."""
    if not (a > 0 and b > 0 and math.isfinite(a) and math.isfinite(b)):
        raise ValueError("a and b must be above 0")
    if not x > 0:
        return 0.0
    if x >= 1:
        return 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    front = math.exp(log_front)
    if x < (a + 1) / (a + b + 2):  # where the fraction converges fast; elsewhere its mirror image does
        return front / (a * _fraction(x, a, b))
    return 1.0 - front / (b * _fraction(1.0 - x, b, a))


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d1/(1 + d2/(1 + ...)), the denominator of DLMF 8.17.22."""
    value = upper = 1.0
    lower = 0.0
    for term in range(1, _TERMS_MAX):
        m = term // 2
        if term % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        lower = 1.0 / ((1.0 + d * lower) or _TINY)
        upper = (1.0 + d / upper) or _TINY
        step = upper * lower
        value *= step
        if abs(step - 1.0) < _PRECISION:
            return value
    raise ArithmeticError("the continued fraction of the incomplete beta function does not converge")


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The rate that a Beta(a, b) rate does not exceed with ``probability``. Raises as beta_cdf does."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return high
