"""The incomplete beta function and its quantile against closed forms and binomial sums."""

from __future__ import annotations

from math import comb

import pytest

from ext_proc.recall.beta import beta_cdf, beta_quantile


def binomial_tail(x: float, a: int, b: int) -> float:
    """I_x(a, b) for whole a and b: at least a of a + b - 1 draws (DLMF 8.17.5)."""
    n = a + b - 1
    return sum(comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(a, n + 1))


@pytest.mark.parametrize("a", [1, 2, 5, 40])
@pytest.mark.parametrize("b", [1, 3, 60, 400])
@pytest.mark.parametrize("x", [0.001, 0.01, 0.1, 0.5, 0.9])
def test_whole_parameters_are_binomial_tails(x: float, a: int, b: int) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(binomial_tail(x, a, b), rel=1e-9, abs=1e-14)


def test_half_and_half_is_the_arcsine_law() -> None:
    assert beta_cdf(0.25, 0.5, 0.5) == pytest.approx(1 / 3)


@pytest.mark.parametrize("n", [1, 59, 298, 650, 100_000])
def test_without_a_wrong_one_the_bound_has_a_closed_form(n: int) -> None:
    assert beta_quantile(0.95, 1, 1 + n) == pytest.approx(1 - 0.05 ** (1 / (n + 1)), rel=1e-9)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (1.3, 651.7), (4, 700.25), (12.5, 3.5)])
@pytest.mark.parametrize("probability", [0.05, 0.5, 0.95, 0.999])
def test_the_quantile_is_the_inverse(a: float, b: float, probability: float) -> None:
    assert beta_cdf(beta_quantile(probability, a, b), a, b) == pytest.approx(probability, abs=1e-9)


def test_the_ends() -> None:
    assert beta_cdf(0, 2, 3) == 0 and beta_cdf(-1, 2, 3) == 0
    assert beta_cdf(1, 2, 3) == 1 and beta_cdf(2, 2, 3) == 1


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, -1), (float("nan"), 1), (1, float("inf"))])
def test_other_parameters_are_refused(a: float, b: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        beta_cdf(0.5, a, b)
