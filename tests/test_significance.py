"""Significance: published values, scipy and scikit-posthocs, and what must hold of any numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ssl_bench import significance as s

# Four methods on fourteen data sets, with ties.
EXAMPLE = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967], [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931], [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875], [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.975, 0.975], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip


def test_demsars_example_of_four_methods_on_fourteen_data_sets():
    ranks = np.array([3.143, 2.000, 2.893, 1.964])  # as published in section 3.2.4
    assert s.critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3) and s.critical_difference(4, 14, 0.10) == pytest.approx(1.12, abs=5e-3)
    assert s.groups(ranks, s.critical_difference(4, 14, 0.10)) == [[3, 1, 2], [2, 0]]  # C4.5 is worse than two of the others
    assert chi_square(ranks, 14) == pytest.approx(9.28, abs=0.01)


def chi_square(ranks, n):
    k = len(ranks)
    return 12 * n / (k * (k + 1)) * ((ranks**2).sum() - k * (k + 1) ** 2 / 4)


def test_friedmans_statistic_is_the_formula_where_nothing_ties_and_larger_where_something_does():
    scores = np.random.default_rng(0).permutation(56).reshape(14, 4)
    assert s.friedman(scores)[0] == pytest.approx(chi_square(s.average_ranks(scores), 14), abs=1e-10)
    assert s.friedman(EXAMPLE)[0] > chi_square(s.average_ranks(EXAMPLE), 14)


# Demšar (2006), table 5a: q at 0.05 and 0.10 for k = 2 .. 10.
@pytest.mark.parametrize(("alpha", "published"), [
    (0.05, [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]), (0.10, [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920]),
])  # fmt: skip
def test_critical_differences_are_those_of_the_published_quantiles(alpha, published):
    for k, q in zip(range(2, 11), published, strict=True):
        assert s.critical_difference(k, 20, alpha) == pytest.approx(q * (k * (k + 1) / 120) ** 0.5, abs=6e-4)


@pytest.mark.parametrize("ties", [False, True])
def test_scipy_and_scikit_posthocs_agree(ties):
    posthocs = pytest.importorskip("scikit_posthocs")
    scores = np.random.default_rng(3).normal(70, 5, (12, 5)).round(0 if ties else 9)
    expected = stats.friedmanchisquare(*scores.T)
    assert s.friedman(scores) == pytest.approx((expected.statistic, expected.pvalue), abs=1e-10)
    nemenyi = posthocs.posthoc_nemenyi_friedman(scores).to_numpy()
    ranks = s.average_ranks(scores)
    for a, b in itertools.combinations(range(5), 2):
        z = abs(ranks[a] - ranks[b]) / (5 * 6 / (6 * 12)) ** 0.5
        assert stats.studentized_range.sf(z * 2**0.5, 5, np.inf) == pytest.approx(nemenyi[a, b], abs=1e-10)
        assert (abs(ranks[a] - ranks[b]) > s.critical_difference(5, 12)) == (nemenyi[a, b] < 0.05)
    scores = scores[:7] if ties else scores  # scipy goes over all signs one by one, where something ties
    pairs = s.compare(scores)
    theirs = posthocs.posthoc_wilcoxon([*scores.T], p_adjust="holm").to_numpy()
    assert [pair.p for pair in pairs] == pytest.approx([stats.wilcoxon(scores[:, p.a], scores[:, p.b]).pvalue for p in pairs], abs=1e-10)
    assert [pair.p_holm for pair in pairs] == pytest.approx([theirs[pair.a, pair.b] for pair in pairs], abs=1e-10)


@pytest.mark.parametrize("blocks", [13, 14, 30, 60])
def test_wilcoxon_of_more_blocks_is_scipys(blocks):
    a, b = np.random.default_rng(blocks).normal(0, 1, (2, blocks))
    assert s.wilcoxon(a, b) == pytest.approx(stats.wilcoxon(a, b).pvalue, abs=1e-10)
    if blocks > 13:
        a, b = a.round(1), b.round(1)  # ties, and perhaps zeros
        assert s.wilcoxon(a, b) == pytest.approx(stats.wilcoxon((a - b).round(1), method="approx").pvalue, abs=1e-10)


def test_holm_by_hand():
    assert s.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # x3, x1 lifted to the one before, x2, x4
    assert s.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0]) and s.holm([]).size == 0


def test_bootstrap_is_paired_seeded_and_resamples_whole_blocks():
    scores = np.random.default_rng(0).normal(70, 10, (8, 1)) + np.array([[0.0, 2.0, 2.0]])  # a constant difference: no width at all
    found = s.bootstrap_differences(scores, [(1, 0), (2, 1)])
    assert found == pytest.approx(np.array([[2.0, 2.0], [0.0, 0.0]]), abs=1e-9)
    scores = np.random.default_rng(1).normal(70, 10, (8, 3))
    pairs = [(0, 1), (2, 0)]
    once = s.bootstrap_differences(scores, pairs, seed=4)
    assert (once == s.bootstrap_differences(scores, pairs, seed=4)).all() and (once != s.bootstrap_differences(scores, pairs, seed=5)).any()
    counts = np.random.default_rng(4).multinomial(8, [1 / 8] * 8, size=10_000)
    means = [np.mean(np.repeat(scores[:, 0] - scores[:, 1], count)) for count in counts]  # the naive form, a loop over resamples
    assert once[0] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-10)
    theirs = stats.bootstrap((scores[:, 0] - scores[:, 1],), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(0))
    assert once[0] == pytest.approx(list(theirs.confidence_interval), abs=0.5)


def test_groups_are_the_bars_of_a_diagram():
    assert s.groups([1.0, 2.0, 3.0, 4.5], 1.2) == [[0, 1], [1, 2]]
    assert s.groups([3.0, 1.0, 1.5], 5) == [[1, 2, 0]]
    assert s.groups([1.0, 3.0], 1.0) == []
    assert s.groups([1.0, 1.4, 1.8, 4.0, 4.2], 1.0) == [[0, 1, 2], [3, 4]]


def test_pairs_with_one_method_are_a_smaller_family():
    all_pairs, few = s.compare(EXAMPLE), s.compare(EXAMPLE, against=0)
    assert len(all_pairs) == 6 and [(pair.a, pair.b) for pair in few] == [(1, 0), (2, 0), (3, 0)]
    assert few[0].p == all_pairs[0].p and few[0].p_holm < all_pairs[0].p_holm
    assert (few[0].wins, few[0].ties, few[0].losses) == (10, 2, 2) and few[0].difference > 0


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.integers(3, 6), st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 9]))
def test_what_holds_of_any_scores(blocks, methods, seed, digits):
    scores = np.random.default_rng(seed).uniform(0, 100, (blocks, methods)).round(digits)
    ranks = s.average_ranks(scores)
    assert ranks.sum() == pytest.approx(methods * (methods + 1) / 2)
    order = np.random.default_rng(seed).permutation(blocks)
    assert s.average_ranks(scores[order]) == pytest.approx(ranks) and s.friedman(scores[order]) == pytest.approx(s.friedman(scores))
    for pair in s.compare(scores):
        assert pair.wins + pair.ties + pair.losses == blocks and 0 < pair.p <= pair.p_holm <= 1
        assert pair.low - 1e-9 <= pair.difference <= pair.high + 1e-9 or blocks < 6


def test_ties_everywhere_and_too_little():
    assert s.friedman(np.ones((5, 3))) == (0.0, 1.0) and s.wilcoxon(np.ones(5), np.ones(5)) == 1.0
    with pytest.raises(ValueError, match="three methods"):
        s.friedman(np.ones((5, 2)))
    with pytest.raises(ValueError, match="two methods"):
        s.critical_difference(1, 5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(240, 360), st.integers(240, 360)), min_size=5, max_size=12))
def test_equal_differences_tie_whatever_their_last_bits(counts):
    """Accuracies are counts over 360 images: in percent, as floats, 1/360 is not always 1/360."""
    hits = np.array(counts)
    percent = 100 * hits / 360
    whole = hits[:, 0] - hits[:, 1]
    assert s.wilcoxon(percent[:, 0], percent[:, 1]) == s.wilcoxon(hits[:, 0], hits[:, 1])
    (pair,) = s.compare(percent)
    assert (pair.wins, pair.ties, pair.losses) == ((whole > 0).sum(), (whole == 0).sum(), (whole < 0).sum())


def test_a_known_case_of_ties():
    a, b = [327, 256, 340, 323, 259, 337, 261, 327, 278], [325, 254, 336, 326, 263, 339, 260, 329, 276]
    assert s.wilcoxon(np.array(a) / 3.6, np.array(b) / 3.6) == pytest.approx(0.98046875, abs=1e-12)
