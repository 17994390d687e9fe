"""docs/methods: generated parts are up to date, logged keys are explained, costs and commands are true, links lead somewhere."""

from __future__ import annotations

import math
import re
from pathlib import Path

import method_pages
import pytest
import torch
from conftest import TINY, only_run

from ssl_bench import catalog, cli, launch
from ssl_bench.models import Classifier
from ssl_bench.record import read_jsonl

METHODS = catalog.method_names()


def page(name: str) -> str:
    return (method_pages.PAGES / f"{name}.md").read_text()


def test_every_method_has_a_page_and_no_page_lacks_one():
    assert {file.stem for file in method_pages.PAGES.glob("*.md")} == {*METHODS, "README"}


@pytest.mark.parametrize("name", METHODS)
def test_generated_parts_are_up_to_date(name):
    blocks = method_pages.blocks_of(name)
    assert method_pages.page_text(page(name), blocks) == page(name), "run: python tools/method_pages.py"
    assert sorted(re.findall(r"<!-- generated: (\w+) -->", page(name))) == sorted(blocks)


def test_the_index_is_up_to_date():
    blocks = {"index": method_pages.index(METHODS)}
    assert method_pages.page_text(page("README"), blocks) == page("README"), "run: python tools/method_pages.py"


def explained(text: str) -> list[str]:
    part = text.partition("## What is logged\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)


@pytest.mark.parametrize("name", METHODS)
def test_the_keys_explained_are_those_logged(tiny, name):
    (logged,) = tiny(name).steps(1)
    keys = explained(page(name))
    assert sorted(keys) == sorted([*logged, *method_pages.LOGGED_BY_ALL])


def test_the_keys_that_every_row_has_are_explained(tmp_path):
    argv = [*TINY, "--epochs", "1", "--log", str(tmp_path)]
    assert launch.run_command(catalog.load_method("erm"), argv) == 0
    train, test = (row for row in read_jsonl(only_run(tmp_path) / "metrics.jsonl") if row["step"] == 3)
    assert (train["kind"], test["kind"]) == ("train", "test")
    assert list(test) == list(method_pages.LOGGED_BY_ALL)
    assert sorted(train) == sorted(["step", "epoch", "kind", "cls_loss", "cls_acc"])


@pytest.mark.parametrize("name", METHODS)
def test_a_step_costs_what_the_page_says(tiny, name):
    run = tiny(name, "--mu", "3")
    passes: dict[bool, list[int]] = {True: [], False: []}
    for network in [module for module in run.method.modules() if isinstance(module, Classifier) or hasattr(module, "check_size")]:
        network.register_forward_hook(lambda _, images, __: passes[torch.is_grad_enabled()].append(len(images[0])))
    run.steps(1)
    said = re.findall(r"^\| (with gradient|without) \| (\d+) \| `(.+)` \|$", page(name), re.MULTILINE)
    assert [(what, int(forwards), images_of(terms, B=8, mu=3)) for what, forwards, terms in said] == [
        ("with gradient", len(passes[True]), sum(passes[True])), ("without", len(passes[False]), sum(passes[False])),
    ]  # fmt: skip


def images_of(terms: str, **value: int) -> int:
    """"2 B + mu B" -> 2 B + mu B."""
    return sum(math.prod(value.get(factor) or int(factor) for factor in term.split()) for term in terms.split(" + "))


@pytest.mark.parametrize("name", METHODS)
def test_every_command_resolves(capsys, name):
    scripts = "\n".join(re.findall(r"```bash\n(.*?)```", page(name), re.DOTALL))
    lines = re.findall(r"^ssl-bench (.+?)(?:\s+#.*)?$", scripts, re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        assert cli.run([*line.split(), "--dry-run"]) == 0, line
        assert f'"method": "{name}"' in capsys.readouterr().out, line


def anchors(file: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [*METHODS, "README"])
def test_links_lead_to_a_file_and_a_heading(name):
    links = re.findall(r"\]\((?!https:)([^)#]*)(?:#([^)]*))?\)", page(name))
    for path, anchor in links:
        file = (method_pages.PAGES / path).resolve() if path else method_pages.PAGES / f"{name}.md"
        assert file.is_file(), path
        assert not anchor or anchor in anchors(file), f"{path}#{anchor}"
    assert name == "README" or any(path == "../fidelity.md" and anchor for path, anchor in links)


def test_a_part_is_replaced_and_the_rest_is_kept():
    text = "a\n<!-- generated: flags -->\nold\n<!-- end -->\nb <!-- generated: logged -->\n<!-- end -->"
    new = method_pages.page_text(text, {"flags": r"new \1", "logged": "x"})
    assert new == "a\n<!-- generated: flags -->\nnew \\1\n<!-- end -->\nb <!-- generated: logged -->\nx\n<!-- end -->"
    assert method_pages.page_text(new, {"flags": r"new \1", "logged": "x"}) == new
    with pytest.raises(ValueError, match="flgs"):
        method_pages.page_text("<!-- generated: flgs -->\n<!-- end -->", {"flags": ""})
    with pytest.raises(ValueError, match="1 parts begin, 0 end"):
        method_pages.page_text("<!-- generated: flags -->\n", {"flags": ""})


def test_flags_are_the_methods_own_and_those_it_gives_another_default():
    own, changed = method_pages.flag_tables("self_tuning").split("\n\n")
    assert "| `--K` | 32 | >= 1 | images a class in the memory |" in own and "| `--two-updates` | off |" in own
    assert "| `--lr-scheduler` | step | exp |" in changed and "--batch-size" not in changed


def test_published_rows_are_the_methods_and_none_is_no_error(tmp_path):
    assert method_pages.published("fixmatch", tmp_path).startswith("None is recorded")
    head = "method,variant,data,labels_per_class,arch,pretrained,top1,std,seeds,select,source\n"
    rows = [
        f"{start},4,resnet50,imagenet,{top1},,1,best,a README"
        for start, top1 in (("erm,,DTD", 3), ("erm,,CIFAR10", 4.06), ("erm,oracle,DTD", 5), ("dst,,DTD", 6))
    ]
    (tmp_path / "a.csv").write_text(head + "\n".join(rows))
    (tmp_path / "b.csv").write_text(head + rows[0].replace("imagenet,3", "moco,7"))
    assert method_pages.published("erm", tmp_path).splitlines() == [
        "a README: top-1, percent; 4 labels a class, resnet50, evaluation: best, seeds: 1; columns: initial weights.",
        "",
        "| data set | imagenet | imagenet oracle | moco |",
        "|---|---|---|---|",
        "| DTD | 3.0 | 5.0 | 7.0 |",
        "| CIFAR10 | 4.1 | – | – |",
        "| mean | 3.5 | – | – |",
    ]
    assert method_pages.published("dst", tmp_path).endswith("| DTD | 6.0 |\n| mean | 6.0 |")
    assert method_pages.published("uda", tmp_path).startswith("None is recorded")
