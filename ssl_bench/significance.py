"""Comparing k methods over n blocks (data sets, or their seeds): pure functions of an array of scores, (n, k), larger is better.

Sources: Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006), 1-30; Holm, Scandinavian Journal of
Statistics 6 (1979), 65-70; Efron and Tibshirani, An introduction to the bootstrap (1993), 13.3.  Every array must be finite.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


EXACT = 13  # blocks whose 2^n signs are all tried, as scipy does where something ties


class Pair(NamedTuple):
    """Methods a and b (columns of the scores); wins, ties, losses of a; mean of a - b, its interval; Wilcoxon's p, and Holm's."""

    a: int
    b: int
    wins: int
    ties: int
    losses: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float


def average_ranks(scores: NDArray) -> NDArray:
    """(k,): mean over the blocks of each method's rank there; 1 is best, ties share the mean of their ranks."""
    from scipy.stats import rankdata

    return rankdata(-np.asarray(scores, dtype=float), axis=1).mean(axis=0)


def friedman(scores: NDArray) -> tuple[float, float]:
    """Friedman's chi square with k - 1 degrees of freedom, corrected for ties, and its p; (0, 1) where all methods tie in every block.

    ValueError for less than three methods or two blocks.
    """
    from scipy.stats import friedmanchisquare

    blocks, methods = np.shape(scores)
    if methods < 3 or blocks < 2:
        raise ValueError(f"Friedman's test needs three methods and two blocks, got {methods} and {blocks}")
    if (np.ptp(scores, axis=1) == 0).all():
        return 0.0, 1.0
    found = friedmanchisquare(*np.asarray(scores, dtype=float).T)
    return float(found.statistic), float(found.pvalue)


def critical_difference(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi: average ranks further apart than this differ at level alpha.  q_alpha sqrt(k (k + 1) / 6n), where q_alpha is the
    studentized range's quantile for k groups and infinite degrees of freedom, over the root of 2."""
    from scipy.stats import studentized_range

    if methods < 2 or blocks < 1:
        raise ValueError(f"a critical difference needs two methods and a block, got {methods} and {blocks}")
    quantile = studentized_range.ppf(1 - alpha, methods, math.inf) / math.sqrt(2)
    return float(quantile * math.sqrt(methods * (methods + 1) / (6 * blocks)))


def groups(ranks: Sequence[float] | NDArray, difference: float) -> list[list[int]]:
    """The largest sets of methods whose average ranks lie within `difference`: the bars of a critical-difference diagram, two or more
    methods each, best first."""
    order = np.argsort(ranks, kind="stable")
    found: list[list[int]] = []
    last = 0
    for start in range(len(order)):
        end = start
        while end + 1 < len(order) and ranks[order[end + 1]] - ranks[order[start]] <= difference:
            end += 1
        if end > start and end + 1 > last:
            found.append([int(k) for k in order[start : end + 1]])
            last = end + 1
    return found


def holm(p: Sequence[float]) -> NDArray:
    """p values of a family of tests, adjusted by Holm's step-down procedure, in the same order."""
    raw = np.asarray(p, dtype=float)
    order = np.argsort(raw, kind="stable")
    steps = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def wilcoxon(a: NDArray, b: NDArray) -> float:
    """p of Wilcoxon's two-sided signed-rank test of paired scores; blocks that tie are left out; 1 where all do.

    Up to EXACT blocks over all signs of the ranks, ties among the differences included; with more scipy's, exact up to 50 without ties,
    by the normal approximation else.
    """
    from scipy import stats

    differences = _differences(a, b)
    differences = differences[differences != 0]
    blocks = len(differences)
    if not blocks:
        return 1.0
    ranks = stats.rankdata(np.abs(differences))
    if blocks > EXACT:
        ties = len(set(ranks)) < blocks
        return float(stats.wilcoxon(differences, method="approx" if ties or blocks > 50 else "exact").pvalue)
    signs = np.arange(2**blocks)[:, None] >> np.arange(blocks) & 1  # scipy goes over them too where something ties, but one by one
    sums, found = signs @ ranks, ranks[differences > 0].sum()
    return float(min(1.0, 2 * min((sums <= found).mean(), (sums >= found).mean())))


def _differences(a: NDArray, b: NDArray) -> NDArray:
    """To nine digits: differences of k/n percentages that are the same number must tie, whatever their last bits are."""
    return (np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).round(9)


def bootstrap_differences(
    scores: NDArray, pairs: Sequence[tuple[int, int]], seed: int = 0, resamples: int = 10_000, level: float = 0.95
) -> NDArray:
    """(pairs, 2): percentile interval of the mean difference of each pair of methods, blocks drawn with replacement, whole rows, so that
    pairs stay pairs.  The same draws serve all pairs; a function of `seed`."""
    scores = np.asarray(scores, dtype=float)
    blocks = len(scores)
    counts = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples)
    means = counts @ scores / blocks
    first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
    return np.quantile(means[:, first] - means[:, second], [(1 - level) / 2, (1 + level) / 2], axis=0).T


def compare(scores: NDArray, against: int | None = None, seed: int = 0) -> list[Pair]:
    """Every pair of methods, or every other one and method `against`; Holm's family is the pairs returned."""
    scores = np.asarray(scores, dtype=float)
    methods = range(scores.shape[1])
    pairs = [*itertools.combinations(methods, 2)] if against is None else [(k, against) for k in methods if k != against]
    if not pairs:
        return []
    p = [wilcoxon(scores[:, a], scores[:, b]) for a, b in pairs]
    lines = zip(pairs, bootstrap_differences(scores, pairs, seed), p, holm(p), strict=True)
    made = []
    for (a, b), (low, high), raw, adjusted in lines:
        differences = _differences(scores[:, a], scores[:, b])
        wins, ties, losses = (int(np.count_nonzero(each)) for each in (differences > 0, differences == 0, differences < 0))
        made.append(Pair(a, b, wins, ties, losses, float(differences.mean()), float(low), float(high), raw, float(adjusted)))
    return made
