"""Known bugs of published SSL code, put back one at a time: the suite's own checks must fail on each."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import sys

import numpy as np
import pytest
import test_contract
import test_ema
import test_evaluate
import test_fixed_split
import test_formulas
import test_losses
import test_mae
import test_methods
import test_metrics
import test_mixup
import test_nets_positional
import test_pools
import test_positional
import test_pretrained
import test_semi_vit
import test_semiformer
import test_streams
import test_tables
import test_trainer
import test_weights
import torch
from test_contract import check_differs_from_erm, check_no_idle_term, check_no_peeking

from ssl_bench import catalog, distributed, evaluate, feed, losses, mixup, pools, record, run_row, schedules, streams, trainer
from ssl_bench.ema import EMATeacher
from ssl_bench.models import Classifier
from ssl_bench.nets.positional import PositionHead, relative_labels
from ssl_bench.streams import EndlessOrder


def caught(check, *args, error: type[BaseException] = AssertionError) -> None:
    """The check, one of the suite's own, fails; error: where it does not come to its assertion."""
    with pytest.raises(error):
        check(*args)


def script(name: str):
    """The module of a method, where its imported losses can be replaced."""
    return sys.modules[catalog.load_method(name).__module__]


def let_gradient_through(monkeypatch, name: str) -> None:
    """Without the no_grad of a method's step."""
    method = catalog.load_method(name)
    original = method.train_step

    def step(self, batch, loop):
        with monkeypatch.context() as inside:
            inside.setattr(torch, "no_grad", contextlib.nullcontext)
            return original(self, batch, loop)

    monkeypatch.setattr(method, "train_step", step)


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


def test_true_labels_seen_before_the_first_step(tiny, monkeypatch):
    method = catalog.load_method("noisy_student")
    original = method.prepare

    def peeking(self, pools):
        original(self, pools)
        self.teacher_logits += torch.from_numpy(pools.unlabeled.targets)[:, None] * torch.eye(10)[0]

    monkeypatch.setattr(method, "prepare", peeking)
    caught(check_no_peeking, tiny, "noisy_student")


@pytest.mark.slow
def test_true_labels_seen_by_an_earlier_stage(tmp_path, monkeypatch):
    """Noisy Student's first generation, taught by what it should not know."""
    method = catalog.load_method("noisy_student")
    original = method.train_step

    def peeking(self, batch, loop):
        if self.args.pretrained_teacher == "generation0":
            batch = dataclasses.replace(batch, idx_u=(batch.idx_u + batch.y_u_hidden).clamp(min=0) % len(self.teacher_logits))
        return original(self, batch, loop)

    monkeypatch.setattr(method, "train_step", peeking)
    caught(test_contract.check_no_stage_peeks, tmp_path, monkeypatch, "noisy_student", "--generations", "2")


def test_a_method_that_is_erm_in_disguise(tiny, monkeypatch):
    method = catalog.load_method("mean_teacher")
    monkeypatch.setattr(method, "train_step", catalog.load_method("erm").train_step)
    caught(check_differs_from_erm, tiny, "mean_teacher")


def test_a_ramp_that_never_starts(tiny, monkeypatch):
    monkeypatch.setattr(script("mean_teacher"), "sigmoid_ramp", lambda epoch, length: 0.0)
    caught(check_no_idle_term, tiny, "mean_teacher")


def test_a_loss_divided_by_the_kept_instead_of_the_batch(tiny, monkeypatch):
    def by_kept(y_u, pseudo, mask):
        return (torch.nn.functional.cross_entropy(y_u, pseudo, reduction="none") * mask).sum() / mask.sum().clamp(min=1)

    monkeypatch.setattr(test_losses, "masked_cross_entropy", by_kept)
    caught(test_losses.test_masked_cross_entropy_divides_by_the_batch, 0)
    for name in ("fixmatch", "pseudo_label"):
        monkeypatch.setattr(script(name), "masked_cross_entropy", by_kept)
        caught(test_formulas.test_hard_pseudo_labels, tiny, name)


def test_an_order_that_ignores_the_seed(monkeypatch):
    original = EndlessOrder.__init__
    monkeypatch.setattr(EndlessOrder, "__init__", lambda self, n, size, *key: original(self, n, size, 0))
    caught(test_streams.test_other_seed_other_order_and_other_images, test_streams.make_images())


def test_a_split_that_ignores_the_seed(digits, monkeypatch):
    original = pools.class_balanced_split
    monkeypatch.setattr(pools, "class_balanced_split", lambda targets, n, seed, classes: original(targets, n, 0, classes))
    caught(test_pools.test_a_split_is_a_function_of_the_seed_and_of_no_process, digits, monkeypatch)


def test_a_split_that_depends_on_the_process(digits, monkeypatch):
    """Semi-ViT's, drawn after the rank was added to the seed: each process labels other images, all of them are trained on."""
    original = pools.class_balanced_split
    by_rank = lambda targets, n, seed, classes: original(targets, n, seed + distributed.rank(), classes)  # noqa: E731
    monkeypatch.setattr(pools, "class_balanced_split", by_rank)
    caught(test_pools.test_a_split_is_a_function_of_the_seed_and_of_no_process, digits, monkeypatch)


def test_dropout_that_is_not_a_function_of_the_step(tiny, monkeypatch):
    monkeypatch.setattr(trainer, "seed_of", lambda *key: np.random.default_rng().integers(2**31).item())
    caught(test_trainer.test_dropout_is_a_function_of_the_step, tiny)


def test_dropout_that_is_the_same_at_every_step(tiny, monkeypatch):
    original = trainer.seed_of
    monkeypatch.setattr(trainer, "seed_of", lambda *key: original(*key[:2]))
    caught(test_trainer.test_dropout_is_a_function_of_the_step, tiny)


def test_a_learning_rate_squared_by_its_schedule(monkeypatch, tiny):
    original = schedules.learning_rate
    monkeypatch.setattr(trainer.schedules, "learning_rate", lambda step, **settings: 0.01 * original(step, **settings))
    caught(test_trainer.test_the_learning_rate_follows_tllibs_exp_schedule_per_step, tiny)


def test_best_on_test_as_headline(tmp_path, monkeypatch):
    original = run_row._scores

    def best(evaluations):
        scores = original(evaluations)
        return scores | {name: scores[name.replace("_last", "_best")] for name in scores if name.endswith("_last")}

    monkeypatch.setattr(run_row, "_scores", best)
    caught(test_tables.test_selection_rules_and_their_names, tmp_path)


def test_a_checkpoint_that_may_run_code(tmp_path, monkeypatch):
    original = torch.load
    monkeypatch.setattr(torch, "load", lambda *given, **settings: original(*given, **{**settings, "weights_only": False}))
    caught(test_weights.test_a_pickle_bomb_is_refused_and_never_goes_off, tmp_path, "torch", error=pytest.fail.Exception)


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
        half = tokens[..., : self.middle]
        return original(self, torch.cat([half, half], dim=-1), pairs)

    monkeypatch.setattr(PositionHead, "_relative", first_half)
    caught(test_nets_positional.check_the_fast_form_is_the_naive_one, (2, 5))


# Averages, teachers, schedules


def test_a_moving_average_of_parameters_only(monkeypatch):
    """TLlib's, whose copy of BatchNorm's statistics misses every layer without "bn" in its name; others' evaluate fresh ones."""

    @torch.no_grad()
    def parameters_only(self, student, decay):
        for theirs, ours in zip(self.model.parameters(), student.parameters(), strict=True):
            theirs.lerp_(ours, 1 - decay)

    monkeypatch.setattr(EMATeacher, "update", parameters_only)
    caught(test_ema.test_follows_the_closed_form_buffers_included)


def test_a_moving_average_with_its_two_sides_exchanged(monkeypatch):
    original = EMATeacher.update
    monkeypatch.setattr(EMATeacher, "update", lambda self, student, decay: original(self, student, 1 - decay))
    caught(test_ema.test_follows_the_closed_form_buffers_included)


def test_a_teacher_that_keeps_half_of_its_random_start(tiny, monkeypatch):
    """A decay of 0.999 from the first step on, without Mean Teacher's 1 - 1/t."""
    monkeypatch.setattr(script("mean_teacher"), "capped_decay", lambda updates, decay: decay)
    caught(test_methods.test_the_teacher_is_a_true_mean_until_the_cap, tiny)


def test_a_student_that_is_evaluated_for_its_teacher(tiny, monkeypatch):
    """TLlib's Mean Teacher: the paper reports the teacher."""
    method = catalog.load_method("mean_teacher")
    monkeypatch.setattr(method, "evaluated", lambda self: self.model)
    caught(test_methods.test_the_network_that_is_asked_for_is_evaluated, tiny)


def test_a_key_encoder_that_follows_twice_a_step(tiny, monkeypatch):
    """TLlib's Self-Tuning: the momentum of a step is m^2."""
    original = EMATeacher.update
    monkeypatch.setattr(EMATeacher, "update", lambda self, student, decay: [original(self, student, decay) for _ in range(2)])
    caught(test_methods.test_the_key_encoder_follows_once_a_step_or_twice_as_tllibs, tiny)


def test_a_teacher_with_noise(tiny, monkeypatch):
    """Noisy Student's labels are made without dropout, by running statistics."""
    original = EMATeacher.__init__
    monkeypatch.setattr(EMATeacher, "__init__", lambda self, student, mode: original(self, student, "train"))
    caught(test_methods.test_the_teachers_logits_are_made_without_noise, tiny)


def test_a_schedule_that_counts_epochs_for_steps(tiny, monkeypatch):
    original = schedules.learning_rate
    monkeypatch.setattr(trainer.schedules, "learning_rate", lambda step, **settings: original(step // 3, **settings))
    caught(test_trainer.test_the_learning_rate_follows_tllibs_exp_schedule_per_step, tiny)
    caught(test_trainer.test_the_cosine_and_the_warm_up, tiny)


def test_gradients_of_micro_batches_that_are_summed(tiny, monkeypatch):
    monkeypatch.setattr(trainer.Trainer, "_backward", lambda self, loss: loss.backward())
    caught(test_contract.test_two_micro_batches_of_four_equal_one_batch_of_eight, tiny, "fixmatch")


# Losses


def test_worst_case_labels_that_are_predicted(tiny, monkeypatch):
    """TLlib's DST, contrary to its paper's eq. 8."""
    method = catalog.load_method("dst")
    original = method.train_step

    def predicted(self, batch, loop):
        self.args = dataclasses.replace(self.args, worst_case_labels="predicted")
        return original(self, batch, loop)

    monkeypatch.setattr(method, "train_step", predicted)
    caught(test_methods.test_dst_losses_are_those_of_its_three_heads, tiny, "true")


def test_thresholds_without_the_images_that_have_no_label_yet(monkeypatch):
    """TorchSSL's FlexMatch without its warm-up, where eq. 11 has one."""
    original = test_methods.flexmatch.flexible
    monkeypatch.setattr(test_methods.flexmatch, "flexible", lambda selected, classes, warmup: original(selected, classes, False))
    caught(test_methods.test_flexible_thresholds_are_the_papers, [0, 0, 1, -1, -1, -1, 2, 0, -1], True)


def test_confidences_in_half_precision(monkeypatch):
    """Under autocast: 0.949 is 0.95 in bf16."""

    def rounded(y_u, threshold):
        confidence, pseudo = y_u.softmax(dim=1).max(dim=1)
        return (confidence > threshold).float(), pseudo

    monkeypatch.setattr(test_losses, "confident_pseudo_labels", rounded)
    caught(test_losses.test_confidences_of_bf16_logits_are_not_rounded)


def test_a_threshold_that_is_reached_instead_of_passed(monkeypatch):
    def reached(y_u, threshold):
        confidence, pseudo = y_u.softmax(dim=1).max(dim=1)
        return (confidence >= threshold).float(), pseudo

    monkeypatch.setattr(test_losses, "confident_pseudo_labels", reached)
    caught(test_losses.test_the_comparison_is_strict)


def test_pseudo_labels_of_the_strong_view(tiny, monkeypatch):
    for name in ("fixmatch", "flexmatch", "uda", "debiasmatch"):
        method = catalog.load_method(name)
        original = method.train_step

        def exchanged(self, batch, loop, original=original):
            return original(self, dataclasses.replace(batch, x_u=batch.x_u[::-1]), loop)

        monkeypatch.setattr(method, "train_step", exchanged)
        caught(test_methods.test_a_weak_view_labels_the_strong_one_and_gets_no_gradient, tiny, name)


def test_a_target_with_gradient(tiny, monkeypatch):
    """Both sides then move, and the cheapest agreement is a collapse."""
    let_gradient_through(monkeypatch, "uda")
    caught(test_methods.test_a_weak_view_labels_the_strong_one_and_gets_no_gradient, tiny, "uda")


def test_a_consistency_loss_of_one_side(tiny, monkeypatch):
    """Pi-Model's gradient flows through both."""
    method = catalog.load_method("pi_model")
    original = method.forwards

    def detached(self, *images):
        for i, y in enumerate(original(self, *images)):
            yield y.detach() if i == 3 else y

    monkeypatch.setattr(method, "forwards", detached)
    caught(test_methods.test_both_views_of_a_pi_model_have_gradient, tiny)


def test_smoothing_that_comes_with_mixing_alone(monkeypatch):
    """Semi-ViT's."""
    monkeypatch.setattr(test_mixup, "mix_batch", lambda x, label, mix, n, smoothing: (x, mixup.smoothed(label, n, 0.0)))
    caught(test_mixup.test_nothing_to_mix_gives_images_and_smoothed_labels)


def test_a_weak_pass_with_gradient(tiny, monkeypatch):
    """Semiformer's single-stream path: memory for a backward that never comes."""
    let_gradient_through(monkeypatch, "semiformer")
    caught(test_semiformer.check_one_forward_with_gradient_and_one_in_eval_mode, tiny)


# Streams and data


def test_the_same_order_at_every_epoch(monkeypatch):
    """Semi-ViT's sampler, told its epoch only where there are several processes."""
    original = EndlessOrder._permutation
    monkeypatch.setattr(EndlessOrder, "_permutation", lambda self, r: original(self, 0))
    caught(test_streams.test_each_round_is_a_permutation_and_rounds_differ)


def test_a_last_batch_that_is_dropped(monkeypatch):
    """A labelled set smaller than a batch then gives none at all: TLlib stops with StopIteration."""

    def dropping(self, k):
        whole = self.n // self.batch_size
        return self._permutation(k // whole)[k % whole * self.batch_size :][: self.batch_size]

    monkeypatch.setattr(EndlessOrder, "batch", dropping)
    caught(test_streams.test_a_batch_may_be_larger_than_the_set, error=ZeroDivisionError)


def test_two_views_with_the_same_draws(monkeypatch):
    original = streams.generator_of
    monkeypatch.setattr(streams, "generator_of", lambda *key: original(*key[:-2], 0, key[-1]))
    caught(test_streams.test_two_weak_views_of_an_image_are_two_draws, test_streams.make_images())


def test_draws_that_are_the_same_in_every_batch(monkeypatch):
    """Loader workers that each start from one and the same NumPy state."""
    original = streams.generator_of
    monkeypatch.setattr(streams, "generator_of", lambda *key: original(*key[:-3], 0, *key[-2:]))
    caught(test_streams.test_an_image_is_drawn_anew_in_each_round)


def test_labelled_and_unlabelled_images_in_one_order(tiny, monkeypatch):
    monkeypatch.setattr(feed, "UNLABELED", feed.LABELED)
    caught(test_trainer.test_labelled_and_unlabelled_orders_differ, tiny)


def test_targets_of_a_shuffled_list_in_the_old_order(monkeypatch):
    """TLlib's Resisc45: the images are shuffled and cut, the targets of the split are not."""
    original = test_fixed_split.fixed_split
    shuffled = np.random.RandomState(0).permutation(60)
    monkeypatch.setattr(test_fixed_split, "fixed_split", lambda targets, *given, **more: original(np.asarray(targets)[shuffled], *given, **more))
    caught(test_fixed_split.test_every_class_gets_its_number_and_nothing_is_in_both, (4, 15, 8))


def test_a_backbone_that_silently_does_not_load(tmp_path, monkeypatch):
    """TLlib's strict=False without a word: the run goes on from random weights."""
    monkeypatch.setattr(test_pretrained, "load_backbone", lambda *given, **settings: "")
    for change, says in test_pretrained.WRONG[:2]:
        caught(test_pretrained.test_a_wrong_backbone_file_is_refused_and_touches_nothing, tmp_path, change, says, error=pytest.fail.Exception)


# Evaluation


def test_accuracy_as_the_mean_of_batches(monkeypatch):
    """An uneven last batch then weighs too much."""
    original = evaluate._Tally.figures
    adds = evaluate._Tally.add

    def add(self, y, target):
        adds(self, y, target)
        self.batches = [*getattr(self, "batches", []), (y.argmax(dim=1) == target).double().mean().item()]

    monkeypatch.setattr(evaluate._Tally, "add", add)
    monkeypatch.setattr(evaluate._Tally, "figures", lambda self, n: original(self, n) | {"top1": 100 * statistics.mean(self.batches)})
    caught(test_evaluate.test_figures_are_those_of_each_image_alone)


def test_a_sampler_that_fills_the_last_batch_up(monkeypatch):
    """DistributedSampler's: some images are counted twice."""

    def filled(n, batch_size, rank=0, world=1):
        positions = np.resize(np.arange(n), -(-n // batch_size) * batch_size)
        for k, part in enumerate(positions.reshape(-1, batch_size)):
            yield streams.Plan(k, part, slice(rank, None, world))

    monkeypatch.setattr(evaluate, "sequential_plans", filled)
    caught(test_evaluate.test_figures_are_those_of_each_image_alone)
    monkeypatch.setattr(test_streams, "sequential_plans", filled)
    caught(test_streams.test_sequential_plans_cover_everything_once)


def test_an_evaluation_in_training_mode(tiny, monkeypatch):
    monkeypatch.setattr(trainer.Method, "eval", lambda self: self)
    caught(test_trainer.test_evaluation_leaves_the_training_mode_and_the_weights_alone, tiny)


def test_top_five_of_four_classes(monkeypatch):
    """TLlib's accuracy asks for five."""
    monkeypatch.setattr(test_metrics, "top_k_hits", lambda y, target, ks=(1, 5): (y.topk(max(ks), dim=1).indices == target[:, None]).sum(dim=0).cumsum(0)[[k - 1 for k in ks]])
    caught(test_metrics.test_top_k_against_sorting, 2, error=RuntimeError)


def test_a_last_evaluation_that_is_not_saved(tmp_path, capsys, monkeypatch):
    """Semiformer's: checkpoint.pth is of an epoch that its frequency divides, the last is not."""
    original = record.RunFolder.save_weights

    def not_the_last(self, name, weights):
        if not (name == "latest" and (self.checkpoints / "latest.pth").exists()):
            original(self, name, weights)

    monkeypatch.setattr(record.RunFolder, "save_weights", not_the_last)
    caught(test_evaluate.test_figures_of_the_record_are_those_of_the_reloaded_checkpoint, "mean_teacher", tmp_path, capsys)
