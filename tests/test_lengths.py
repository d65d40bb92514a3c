"""Rows that judge are as long as those that are reported."""

from __future__ import annotations

import numpy as np
import pytest
from axform.toolchain.lengths import as_long_as
from scipy.stats import ks_2samp


def test_lengths_that_are_alike_keep_every_row():
    random = np.random.default_rng(0)
    lengths, wanted = random.poisson(20, 5000), random.poisson(20, 800)
    assert np.array_equal(as_long_as(lengths, wanted, 0), np.arange(5000))


@pytest.mark.parametrize("seed", range(3))
def test_short_rows_are_left_out_until_lengths_are_spread_as_wanted(seed):
    random = np.random.default_rng(seed)
    lengths = np.concatenate([random.poisson(8, 4000), random.poisson(25, 1000)])
    wanted = random.poisson(25, 900)
    chosen = as_long_as(lengths, wanted, seed)
    assert len(np.unique(chosen)) == len(chosen) >= 900 and np.array_equal(chosen, np.sort(chosen))
    assert ks_2samp(lengths, wanted).pvalue < 1e-9
    assert abs(np.median(lengths[chosen]) - np.median(wanted)) <= 1
    assert ks_2samp(lengths[chosen], wanted).statistic < 0.1
    assert np.array_equal(chosen, as_long_as(lengths, wanted, seed))


@pytest.mark.parametrize("long", [0, 30])
def test_where_hardly_any_row_is_long_enough_the_nearest_judge(long):
    lengths = np.concatenate([np.full(1000, 5), np.full(500, 9), np.full(long, 40)])
    chosen = as_long_as(lengths, np.full(300, 40), 0)
    assert sorted(lengths[chosen]) == [9] * (200 - long) + [40] * long
