"""The voting rules, against the specification's table row by row."""

from __future__ import annotations

import pytest
import torch

from ssl_bench.voting import RULES, SOURCES, two_stream_labels

# (weight, whose label) where only the convolutional stream is sure, only the transformer, both agree, both disagree with the
# convolutional surer, both disagree with the transformer surer.
TABLE = {
    "vote_equal": ["1 conv", "1 trans", "1 both", "0 -", "0 -"],
    "vote_cnn_bias": ["1 conv", "1 trans", "1 both", "1 conv", "1 conv"],
    "vote_larger": ["1 conv", "1 trans", "1 both", "1 conv", "1 trans"],
    "vote_larger2": ["1 conv", "0 -", "1 both", "1 conv", "1 trans"],
    "vote_equal2": ["1 conv", "0 -", "1 both", "0 -", "0 -"],
    "weight_v1": ["1 conv", "0 -", "1 both", "0.5 conv", "0.5 trans"],
    "weight_v2": ["1 conv", "0.5 trans", "1 both", "0.5 conv", "0.5 trans"],
    "weight_v3": ["0.5 conv", "0 -", "1 both", "0.5 conv", "0.5 trans"],
    "weight_v4": ["0.5 conv", "0.5 trans", "1 both", "0.5 conv", "0.5 trans"],
    "weight_v5": ["0.5 conv", "0 -", "1 both", "0.5 conv", "0.5 conv"],
    "weight_v6": ["1 conv", "0 -", "1 both", "0.5 conv", "0.5 conv"],
}
# Probabilities of each case, then of neither sure; the convolutional stream says class 0, the transformer 1 (agreeing: 0).
CONV = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.3, 0.2], [0.8, 0.1, 0.1], [0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.4, 0.3, 0.3]])
TRANS = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.05, 0.9, 0.05], [0.3, 0.4, 0.3]])


@pytest.mark.parametrize("rule", TABLE)
def test_each_case_has_the_published_label_and_weight(rule):
    weight, label = two_stream_labels(CONV.log(), TRANS.log(), rule, 0.7)
    for case, (said, w, found) in enumerate(zip(TABLE[rule], weight.tolist(), label.tolist(), strict=False)):
        wanted, whose = said.split()
        assert w == float(wanted), (rule, case)
        assert whose == "-" or found == {"conv": 0, "trans": 1, "both": 0}[whose], (rule, case)
    assert weight[5] == 0


def test_every_rule_is_tried():
    assert set(TABLE) == set(RULES) and len(SOURCES) == 4 + len(RULES)


def test_equally_sure_the_transformers_label_counts():
    weight, label = two_stream_labels(torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.2, 0.8]]).log(), "vote_larger", 0.7)
    assert (weight.item(), label.item()) == (1, 1)


@pytest.mark.parametrize(("source", "labels", "kept"), [
    ("cnn", [0, 0, 0, 0, 0, 0], [1, 0, 1, 1, 1, 0]), ("transformer", [1, 1, 0, 1, 1, 1], [0, 1, 1, 1, 1, 0]),
])  # fmt: skip
def test_one_stream_alone(source, labels, kept):
    weight, label = two_stream_labels(CONV.log(), TRANS.log(), source, 0.7)
    assert weight.tolist() == kept and label.tolist() == labels


def test_means_of_logits_and_of_probabilities():
    y_conv, y_trans = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3, torch.randn(50, 4) * 3
    for source, p in (
        ("fuse", ((y_conv + y_trans) / 2).softmax(1)), ("softmax_fuse", (y_conv.softmax(1) + y_trans.softmax(1)) / 2),
    ):  # fmt: skip
        weight, label = two_stream_labels(y_conv, y_trans, source, 0.6)
        assert torch.equal(label, p.argmax(1)) and torch.equal(weight, (p.amax(1) >= 0.6).float())
        assert 0 < weight.sum() < 50


@pytest.mark.parametrize("source", SOURCES)
def test_a_threshold_of_zero_keeps_all_but_ties_lost_and_one_above_1_none(source):
    y = torch.randn(20, 5)
    assert two_stream_labels(y, y + 0.01, source, 0.0)[0].min() == 1  # they agree
    assert two_stream_labels(y, y, source, 1.01)[0].max() == 0
