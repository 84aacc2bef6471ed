"""Envoy's own count of healthy pods."""

from __future__ import annotations

import pytest

from mesh.local.pods import counts_from

NAME = "cluster.outbound|30000||sglang.tidegate.svc.cluster.local.membership_"


@pytest.mark.parametrize(
    ("stats", "counts"),
    [
        ("", (0, 0)),
        ("no such page", (0, 0)),
        (f"{NAME}healthy: 0\n{NAME}total: 2\n", (0, 2)),
        (f"{NAME}healthy: 1\n{NAME}total: 2\n", (1, 2)),
        (f"{NAME}degraded: 5\ncluster.outbound|8090||api.membership_healthy: 1\n{NAME}total: 1\n", (0, 1)),
    ],
)
def test_counts(stats: str, counts: tuple[int, int]) -> None:
    assert counts_from(stats) == counts
