"""The committed evidence says what the README says."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import statistics
from pathlib import Path

import pytest

from ssl_bench import catalog, recipe, runs, tables

REPOSITORY = Path(__file__).parent.parent
RESULTS = REPOSITORY / "results"


@pytest.fixture(scope="module")
def evidence():
    return runs.collect([RESULTS / "digits"])


@pytest.mark.parametrize("study", ["digits", "semi_vit_digits", "semi_vit_cifar10", "semiformer_cifar10", "positional_cifar10"])
@pytest.mark.parametrize(("form", "ending"), [("github", "md"), ("csv", "csv"), ("latex", "tex")])
def test_tables_are_made_from_the_runs_and_from_runs_csv_alike(tmp_path, study, form, ending):
    evidence = runs.collect([RESULTS / study])
    committed = (RESULTS / f"{study}.{ending}").read_text()
    assert tables.render(tables.summarize(evidence), form) == committed
    runs.write_runs_csv(evidence, tmp_path / "runs.csv")
    assert tables.render(tables.summarize(runs.collect([tmp_path / "runs.csv"])), form) == committed


def test_the_readmes_table_is_the_committed_one():
    rows = [line for line in (RESULTS / "digits.md").read_text().splitlines() if line.startswith("|")]
    assert "\n".join(rows) in (REPOSITORY / "README.md").read_text()


def scores(evidence, arch: str) -> dict[str, list[float]]:
    """Row of the table -> its seeds' accuracies."""
    runs = evidence[(evidence["arch"] == arch) & (evidence["state"] == "done")]
    names = runs["method"].where(runs["variant"] == "", runs["method"] + " (" + runs["variant"] + ")")
    return {name: list(group) for name, group in runs["top1_last"].groupby(names)}


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
def test_every_method_is_there_with_five_seeds_between_erm_and_the_oracle(evidence, arch):
    found = scores(evidence, arch)
    elsewhere = {"semiformer"} | ({"positional_label"} if arch == "test_resnet" else set())  # see the study's settings
    assert set(found) == {*catalog.method_names(), "erm (oracle)"} - {*catalog.pretraining_names()} - elsewhere
    assert all(len(values) == 5 for values in found.values())
    means = {name: statistics.mean(values) for name, values in found.items()}
    as_long = {name: mean for name, mean in means.items() if name != "semi_vit"}  # which has 650 steps, the others 250
    assert max(as_long, key=as_long.get) == "erm (oracle)"
    below = {name for name in means if means[name] < means["erm"]}
    sentence = re.search(r"Below ERM[^.]*\.", (REPOSITORY / "README.md").read_text())[0]
    network = {"test_resnet": "CNN", "test_vit": "ViT"}[arch]
    assert below == (set(re.findall(r"`(\w+)`", sentence)) if network in sentence else set()), "the README says which are not"


def test_the_two_streams_are_what_the_readme_says(evidence):
    (values,) = scores(evidence, "semiformer_tiny_patch4").values()
    said = f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} (5)"
    assert len(values) == 5 and f"semiformer {said}." in (RESULTS / "digits.md").read_text() and said in (REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize(("study", "table_in"), [("semi_vit_digits", 1), ("semi_vit_cifar10", 2)])
def test_the_arms_of_semi_vit_are_those_its_page_shows(study, table_in):
    done = runs.collect([RESULTS / study])
    arms = [(len(group), statistics.mean(group), statistics.stdev(group)) for _, group in done.groupby("variant")["top1_last"]]
    assert len(arms) == 6 and all(n == 5 for n, _, _ in arms)
    page = (REPOSITORY / "docs" / "methods" / "semi_vit.md").read_text().partition("## What of it shows")[2]
    rows = [line.split("|") for line in page.splitlines() if line.startswith("|")][2:8]
    assert sorted(row[table_in + 1].strip() for row in rows) == sorted(f"{mean:.1f} ± {std:.1f}" for _, mean, std in arms)


def said_on_page(method: str) -> list[str]:
    """The cells with a spread in the tables of a page's part on our own studies."""
    page = (REPOSITORY / "docs" / "methods" / f"{method}.md").read_text().partition("## What of it shows")[2].partition("\n## ")[0]
    return sorted(cell.strip() for line in page.splitlines() if line.startswith("|") for cell in line.split("|")[2:] if "±" in cell)


@pytest.mark.parametrize(("study", "page", "cells"), [("semiformer_cifar10", "semiformer", 8), ("positional_cifar10", "positional_label", 9)])
def test_the_arms_of_a_study_are_those_its_page_shows(study, page, cells):
    done, made = runs.collect([RESULTS / study]), []
    for _, arm in done.groupby(["method", "variant", "labels_per_class"]):
        for metric in ("top1_last", "conv_top1_last", "trans_top1_last"):
            values = arm[metric].dropna()
            assert len(values) in (0, 5)
            made += [f"{values.mean():.1f} ± {values.std():.1f}"] if len(values) else []
    assert len(made) == cells and sorted(made) == said_on_page(page)


@pytest.mark.parametrize("method", ["fixmatch", "mean_teacher", "flexmatch", "debiasmatch", "pi_model"])
def test_on_the_cnn_semi_supervised_beats_supervised_by_more_than_one_standard_error(evidence, method):
    found = scores(evidence, "test_resnet")
    error = math.sqrt(sum(statistics.variance(found[name]) / 5 for name in ("erm", method)))
    assert statistics.mean(found[method]) - statistics.mean(found["erm"]) > error


def test_every_method_saw_the_same_labels(evidence):
    hashes = evidence.groupby("seed")[["split_labeled", "split_unlabeled"]].nunique()
    assert (hashes == 1).all(axis=None)


def test_the_evidence_is_of_the_recipes_and_flags_that_are_here():
    for file in (RESULTS / "digits").rglob("args.json"):
        said = json.loads(file.read_text())
        args_class = catalog.load_method(said["method"]).Args
        assert recipe.resolve(args_class, said["method"], said["args"]["data"], said["recipe"]).hash == said["recipe_hash"], file
        assert {*said["identity"]} <= {field.name for field in dataclasses.fields(args_class)}, file


def test_on_a_balanced_test_set_the_mean_of_classes_is_top1(evidence):
    done = evidence[evidence["state"] == "done"]
    assert (done["mean_class_last"] - done["top1_last"]).abs().max() < 1e-9


def test_no_path_of_the_machine_is_in_the_evidence():
    for path in RESULTS.rglob("*.json*"):
        text = path.read_text()
        assert "/home/" not in text and "/tmp/" not in text and "/root/" not in text, path
