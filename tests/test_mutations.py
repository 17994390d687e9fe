"""Known bugs of published SSL code, put back one at a time: the suite's own checks must fail on each."""

from __future__ import annotations

import dataclasses
import os
import pickle
import statistics
import sys

import numpy as np
import pytest
import test_mae
import test_methods
import test_mixup
import test_nets_positional
import test_positional
import test_semi_vit
import test_semiformer
import test_streams
import test_trainer
import torch
from test_contract import assert_trees_equal, check_differs_from_erm, check_no_idle_term, check_no_peeking

from ssl_bench import catalog, losses, mixup, pools, record, runs, schedules, trainer
from ssl_bench.ema import EMATeacher
from ssl_bench.models import Classifier
from ssl_bench.nets.positional import PositionHead, relative_labels
from ssl_bench.pools import make_pools
from ssl_bench.streams import EndlessOrder


def caught(check, *args) -> None:
    with pytest.raises(AssertionError):
        check(*args)


def script(name: str):
    """The module of a method, where its imported losses can be replaced."""
    return sys.modules[catalog.load_method(name).__module__]


def test_an_unlabelled_loss_without_gradient(tiny, monkeypatch):
    def detached(y_u, pseudo, mask):
        return losses.masked_cross_entropy(y_u, pseudo, mask).detach() + 0 * y_u.sum()

    for name in ("fixmatch", "pseudo_label"):
        monkeypatch.setattr(script(name), "masked_cross_entropy", detached)
        caught(check_no_idle_term, tiny, name)


def test_a_mask_that_keeps_nothing(tiny, monkeypatch):
    def nothing(y_u, threshold):
        mask, pseudo = losses.confident_pseudo_labels(y_u, threshold)
        return mask * 0, pseudo

    monkeypatch.setattr(script("fixmatch"), "confident_pseudo_labels", nothing)
    caught(check_no_idle_term, tiny, "fixmatch")


def test_a_teacher_that_receives_gradient(tiny, monkeypatch):
    original = EMATeacher.__init__

    def trainable(self, student, mode):
        original(self, student, mode)
        self.model.requires_grad_(True)

    monkeypatch.setattr(EMATeacher, "__init__", trainable)
    caught(check_no_idle_term, tiny, "mean_teacher")


def test_true_labels_of_unlabelled_images_used_in_training(tiny, monkeypatch):
    method = catalog.load_method("fixmatch")
    original = method.train_step

    def peeking(self, batch, loop):
        return original(self, dataclasses.replace(batch, x_u=tuple(x * (1 + batch.y_u_hidden[:, None, None, None]) for x in batch.x_u)), loop)

    monkeypatch.setattr(method, "train_step", peeking)
    caught(check_no_peeking, tiny, "fixmatch")


def test_a_method_that_is_erm_in_disguise(tiny, monkeypatch):
    method = catalog.load_method("mean_teacher")
    monkeypatch.setattr(method, "train_step", catalog.load_method("erm").train_step)
    caught(check_differs_from_erm, tiny, "mean_teacher")


def test_a_ramp_that_never_starts(tiny, monkeypatch):
    monkeypatch.setattr(script("mean_teacher"), "sigmoid_ramp", lambda epoch, length: 0.0)
    caught(check_no_idle_term, tiny, "mean_teacher")


def check_divided_by_batch():
    y_u, mask = torch.zeros(4, 2), torch.tensor([1.0, 0, 0, 0])
    assert losses.masked_cross_entropy(y_u, torch.zeros(4, dtype=torch.int64), mask).item() == pytest.approx(np.log(2) / 4)


def test_a_loss_divided_by_the_kept_instead_of_the_batch(tiny, monkeypatch):
    def by_kept(y_u, pseudo, mask):
        return (torch.nn.functional.cross_entropy(y_u, pseudo, reduction="none") * mask).sum() / mask.sum().clamp(min=1)

    monkeypatch.setattr(losses, "masked_cross_entropy", by_kept)
    caught(check_divided_by_batch)


def test_an_order_that_ignores_the_seed(monkeypatch):
    original = EndlessOrder.__init__
    monkeypatch.setattr(EndlessOrder, "__init__", lambda self, n, size, *key: original(self, n, size, 0))
    caught(test_streams.test_other_seed_other_order_and_other_images, test_streams.make_images())


def test_a_split_that_ignores_the_seed(digits, monkeypatch):
    def seeds_differ():
        assert make_pools(digits, 4, 0).split_hash != make_pools(digits, 4, 1).split_hash

    seeds_differ()
    original = pools.class_balanced_split
    monkeypatch.setattr(pools, "class_balanced_split", lambda targets, n, seed, classes: original(targets, n, 0, classes))
    caught(seeds_differ)


def check_two_runs_are_equal(tiny):
    pair = [tiny("erm"), tiny("erm")]
    for run in pair:
        run.steps(2)
    assert_trees_equal(pair[0].weights(), pair[1].weights(), "weights")


def test_dropout_that_is_not_a_function_of_the_step(tiny, monkeypatch):
    check_two_runs_are_equal(tiny)
    monkeypatch.setattr(trainer, "seed_of", lambda *key: np.random.default_rng().integers(2**31).item())
    caught(check_two_runs_are_equal, tiny)


def test_a_learning_rate_squared_by_its_schedule(monkeypatch, tiny):
    original = schedules.learning_rate
    monkeypatch.setattr(trainer.schedules, "learning_rate", lambda step, **settings: 0.01 * original(step, **settings))
    caught(test_trainer.test_the_learning_rate_follows_tllibs_exp_schedule_per_step, tiny)


def test_best_on_test_as_headline():
    evaluations = [{"top1": float(top1), "top5": 90.0, "mean_class": 50.0, "epoch": i, "step": i} for i, top1 in enumerate((60, 80, 70))]
    scores = runs._scores(evaluations)
    assert scores["top1_last"] == 70 and scores["top1_best"] == 80 and scores["top1_median20"] == statistics.median((60, 80, 70))


def test_a_label_in_the_checkpoint_that_runs_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    folder = record.RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    (folder.checkpoints / "state-00000001.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(ValueError, match="no checkpoint"):
        folder.load_state()
    assert not (tmp_path / "exploded").exists()


# The seven methods after the spine


def test_a_temperature_on_the_wrong_side(tiny, monkeypatch):
    """TLlib's UDA, which other ports have too."""
    method = catalog.load_method("uda")
    original = method.train_step

    def wrong_side(self, batch, loop):
        other = {"target": "student", "student": "target"}[self.args.temperature_on]
        self.args = dataclasses.replace(self.args, temperature_on=other)
        return original(self, batch, loop)

    monkeypatch.setattr(method, "train_step", wrong_side)
    caught(test_methods.test_uda_sharpens_the_target_and_tllibs_flags_do_what_tllib_does, tiny, "target", "batch")


def test_a_class_prior_that_is_forgotten_at_each_epoch(tiny, monkeypatch):
    """TLlib's DebiasMatch rebinds its prior inside the function that trains one epoch."""
    method = catalog.load_method("debiasmatch")
    original = method.after_step

    def forgetful(self, loop):
        original(self, loop)
        if (loop.step + 1) % self.args.iters_per_epoch == 0:
            self.prior.fill_(0.1)

    monkeypatch.setattr(method, "after_step", forgetful)
    caught(test_methods.test_the_prior_lives_on_across_epochs_unless_tllibs_reset_is_asked_for, tiny)


def test_a_class_prior_of_one_number(tiny, monkeypatch):
    method = catalog.load_method("debiasmatch")
    original = method.after_step

    def scalar(self, loop):
        original(self, loop)
        self.prior.fill_(self.prior.mean().item())

    monkeypatch.setattr(method, "after_step", scalar)
    caught(test_methods.test_debiasmatch_corrects_both_sides_by_the_prior_and_averages_predictions, tiny)


def test_one_threshold_for_all_classes(tiny, monkeypatch):
    flexible = script("flexmatch").flexible
    monkeypatch.setattr(script("flexmatch"), "flexible", lambda *given: torch.ones_like(flexible(*given)))
    caught(test_methods.test_flexmatch_masks_by_class_and_remembers_only_confident_labels, tiny)


def test_thresholds_that_fall_to_zero_when_one_class_has_every_image(monkeypatch):
    """TLlib's and TorchSSL's guard for an empty memory also fires here."""
    original = test_methods.flexmatch.flexible

    def guarded(selected, num_classes, warmup):
        factors = original(selected, num_classes, warmup)
        return torch.zeros_like(factors) if len(selected.unique()) == 1 else factors

    monkeypatch.setattr(test_methods.flexmatch, "flexible", guarded)
    caught(test_methods.test_the_best_learned_class_has_the_full_threshold_and_an_unseen_one_none)


def test_labels_remembered_below_the_threshold(tiny, monkeypatch):
    method = catalog.load_method("flexmatch")
    original = method.train_step

    def remembers_all(self, batch, loop):
        logged = original(self, batch, loop)
        self.seen[-1] = (self.seen[-1][0], self.seen[-1][1].clamp(min=0))
        return logged

    monkeypatch.setattr(method, "train_step", remembers_all)
    caught(test_methods.test_flexmatch_masks_by_class_and_remembers_only_confident_labels, tiny)


def test_a_reversal_that_does_not_reverse(monkeypatch):
    reversal = test_methods.dst.Reversal
    original = reversal.backward
    monkeypatch.setattr(reversal, "backward", staticmethod(lambda ctx, gradient: (-original(ctx, gradient)[0], None)))
    caught(test_methods.test_the_reversal_is_the_identity_with_a_negative_gradient)


def test_pseudo_labels_that_train_the_main_head(tiny, monkeypatch):
    heads = test_methods.dst.ThreeHeads
    monkeypatch.setattr(heads, "logits", lambda self, features: torch.cat([self.head(features)] * 3, dim=1))
    caught(test_methods.test_pseudo_labels_never_train_dsts_main_head, tiny)


def test_a_memory_whose_classes_are_mixed_up(monkeypatch):
    original = test_methods.self_tuning.enqueue

    def by_first_label(memory, oldest, key, label):
        original(memory, oldest, key, label[:1].expand(len(label)))

    monkeypatch.setattr(test_methods.self_tuning, "enqueue", by_first_label)
    caught(test_methods.test_the_memory_is_a_ring_a_class, 1)


def test_teacher_logits_of_other_images(tiny, monkeypatch):
    """TLlib's Noisy Student without a seed."""
    method = catalog.load_method("noisy_student")
    original = method.prepare

    def misaligned(self, pools):
        original(self, pools)
        self.teacher_logits = self.teacher_logits.roll(1, dims=0)

    monkeypatch.setattr(method, "prepare", misaligned)
    caught(test_methods.test_teacher_logits_are_those_of_the_image_that_the_index_names, tiny)


# Pre-training


def test_a_probe_that_trains_the_encoder(tiny, monkeypatch):
    monkeypatch.setattr(script("mae").ProbedEncoder, "forward", Classifier.forward)
    caught(test_mae.check_the_probe_moves_its_head_only, tiny)


def test_one_mask_for_every_image(tiny, monkeypatch):
    monkeypatch.setattr(script("mae"), "send", lambda noise, device: noise[:1].expand_as(noise))
    caught(test_mae.check_each_step_and_image_has_a_mask_of_its_own, tiny)


def test_masks_that_do_not_change_with_the_step(tiny, monkeypatch):
    original = script("mae").generator_of
    monkeypatch.setattr(script("mae"), "generator_of", lambda seed, purpose, step: original(seed, purpose, 0))
    caught(test_mae.check_each_step_and_image_has_a_mask_of_its_own, tiny)


def test_a_loss_on_the_patches_that_are_seen(monkeypatch):
    def on_all(self, tokens, x, kept):
        return (self.predict(tokens, kept) - self.target(x)).square().mean(dim=(1, 2))

    monkeypatch.setattr(test_mae.Decoder, "forward", on_all)
    caught(test_mae.test_the_loss_is_that_of_each_image_alone, "class token")
    caught(test_mae.test_a_hidden_patch_influences_the_target_only_and_a_seen_one_the_input_only)


# Semi-ViT


def test_a_pseudo_mixup_that_keeps_the_mask_of_the_unmixed_image(tiny, monkeypatch):
    monkeypatch.setattr(script("semi_vit"), "surest", lambda confidence, mix: confidence)
    caught(test_semi_vit.test_the_unlabelled_loss_is_the_papers, tiny, "prob")


def test_a_pseudo_mixup_with_one_share_for_the_batch(tiny, monkeypatch):
    monkeypatch.setattr(mixup, "pair_weight", lambda c, c_partner: (c / (c + c_partner)).mean().expand(len(c)))
    caught(test_mixup.test_golden_vectors_of_the_reference)


def test_pseudo_mixup_pairs_that_duplicate_the_batch(monkeypatch):
    original = mixup.draw_pseudo_mixup

    def flipped(n, **settings):
        return dataclasses.replace(original(n, **settings), partner=torch.arange(n - 1, -1, -1))

    monkeypatch.setattr(test_mixup, "draw_pseudo_mixup", flipped)
    caught(test_mixup.test_partners_are_a_random_permutation)


def test_a_label_share_that_is_not_corrected_for_a_clipped_box(monkeypatch):
    original = mixup.blend

    def uncorrected(x, x_partner, weight, cut, centre):
        return original(x, x_partner, weight, cut, centre)[0], weight.to(x.dtype)

    monkeypatch.setattr(mixup, "blend", uncorrected)
    with pytest.raises(AssertionError):
        test_mixup.check_against_the_loop(0, 16, (8, 8), (0.0, 1.0))


def test_an_unlabelled_loss_divided_by_the_images_used(tiny, monkeypatch):
    def over_used(y, q):
        used = (q.sum(dim=1) > 0).float()
        return losses.soft_cross_entropy(y, q) * len(used) / used.sum()

    monkeypatch.setattr(script("semi_vit"), "soft_cross_entropy", over_used)
    caught(test_semi_vit.test_images_below_the_threshold_stay_in_the_denominator, tiny)


def test_a_moving_average_for_each_micro_batch(tiny, monkeypatch):
    method = catalog.load_method("semi_vit")
    original = method.train_step

    def eager(self, batch, loop):
        logged = original(self, batch, loop)
        self.teacher.update(self.model, 0.5)
        return logged

    monkeypatch.setattr(method, "train_step", eager)
    caught(test_semi_vit.test_the_teacher_follows_in_closed_form_and_never_trains, tiny)


# Semiformer


def test_weak_views_in_training_mode(tiny, monkeypatch):
    """Their images would move BatchNorm's statistics, and drop-path would act on the labels."""
    network = type(tiny("semiformer").method.model)
    monkeypatch.setattr(network, "eval", lambda self: self)
    caught(test_semiformer.check_one_forward_with_gradient_and_one_in_eval_mode, tiny)
    caught(test_semiformer.check_the_weak_pass_leaves_no_trace, tiny)


def test_the_transformers_own_label_for_both_streams(tiny, monkeypatch):
    original = script("semiformer").two_stream_labels
    monkeypatch.setattr(script("semiformer"), "two_stream_labels", lambda conv, trans, source, tau: original(trans, conv, source, tau))
    caught(test_semiformer.check_the_convolutional_streams_label_teaches_both, tiny)


def test_a_mean_over_the_labels_that_are_kept(tiny, monkeypatch):
    original = script("semiformer").two_stream_labels

    def divided(*given):
        mask, pseudo = original(*given)
        return mask / mask.mean().clamp(min=1e-6), pseudo

    monkeypatch.setattr(script("semiformer"), "two_stream_labels", divided)
    caught(test_semiformer.check_the_step_is_that_of_the_specification, tiny)


def test_a_second_phase_that_forgets_the_first(tmp_path, monkeypatch):
    """The optimiser's moments, and its warm-up of the learning rate, would begin anew where the pseudo-labels come in."""
    monkeypatch.setattr(trainer.Trainer, "go_on_from", lambda self, state: None)
    caught(test_semiformer.check_the_optimiser_goes_on_and_the_schedule_too, test_semiformer.a_finished_run(tmp_path))


# Positional labels


def test_positions_of_weak_views_too(tiny, monkeypatch):
    """A pass without gradient has nothing to learn from, and would only dilute the mean."""
    original = trainer.Method.position_step

    def diluted(self, loop):
        if self.positional is not None:
            self.tokens.append(torch.zeros_like(self.tokens[0]))
        return original(self, loop)

    monkeypatch.setattr(trainer.Method, "position_step", diluted)
    caught(test_positional.check_the_term_is_the_mean_over_images, tiny)


def test_key_and_query_exchanged(monkeypatch):
    monkeypatch.setattr(test_nets_positional, "relative_labels", lambda rows, columns: relative_labels(rows, columns).T)
    caught(test_nets_positional.test_relative_labels_of_a_3_by_3_grid_are_the_papers_figure)


def test_the_same_half_of_the_channels_for_query_and_key(monkeypatch):
    original = PositionHead._relative

    def first_half(self, tokens, pairs):
        half = tokens[..., : self.half]
        return original(self, torch.cat([half, half], dim=-1), pairs)

    monkeypatch.setattr(PositionHead, "_relative", first_half)
    caught(test_nets_positional.check_the_fast_form_is_the_naive_one, (2, 5))
