"""What `ssl-bench list` shows: true, aligned, within its width, and without torch where no network is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ssl_bench import catalog, inventory, zoo


def listed(*argv: str) -> str:
    return inventory.text(argv)


@pytest.mark.parametrize("argv", [(), ("methods",), ("datasets",), ("recipes",), ("recipes", "fixmatch"), ("studies",)])
def test_it_fits_its_width_and_ends_without_blanks(argv):
    lines = listed(*argv).splitlines()
    assert all(len(line) <= inventory.WIDTH and line == line.rstrip() for line in lines), max(lines, key=len)


def test_names_load_no_torch():
    code = (
        "import sys; from ssl_bench import cli\n"
        "for words in ([], ['methods'], ['datasets'], ['recipes'], ['recipes', 'erm'], ['studies'], ['nothing']):\n"
        "    cli.run(['list', *words])\n"
        "sys.exit(bool({'torch', 'torchvision', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout, done.stderr


def test_the_overview_has_every_name_and_every_word():
    out = listed()
    for name in [*catalog.method_names(), *zoo.names(), "package.module:Name", "base", "digits"]:
        assert name in out
    assert all(f"ssl-bench list {word} " in out for word in inventory.WORDS)
    assert listed("--help") == out


def test_methods_have_their_scripts_first_line():
    out = " ".join(listed("methods").split())
    for name, idea in catalog.method_summaries().items():
        assert idea and f"{name} {idea}" in out


def test_data_sets_have_the_counts_that_loading_checks(monkeypatch):
    monkeypatch.setitem(zoo.PUBLISHED, "Moths", zoo.Published(lambda *_: None, classes=12, train=3_456, test=789, about="moths"))
    rows = {line.split()[0]: line.split() for line in listed("datasets").splitlines()}
    assert rows["Moths"] == ["Moths", "12", "3,456", "789", "moths"]
    assert rows["STL10"][1:5] == ["10", "5,000", "8,000", "100,000"]
    assert set(zoo.names()) <= set(rows)
    assert listed("datasets").count("789") == 1


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """recipes/ with two files: of fixmatch (two recipes of the same sections), and a study."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "fixmatch.yaml").write_text(
        "# FixMatch.  Source: a table whose\n# name is long.\n# Command: none\n"
        "default: &same\n  CIFAR10: {lr: 1}\n  DTD: {lr: 2}\ntllib:\n  <<: *same\n  all: {mu: 2}\nmoco: {all: {lr: 3}}\n"
    )
    study = "# A small study.\nmethods: [erm, dst]\nsettings: [{data: Digits}]\nseeds: [0]\n"
    (tmp_path / "studies" / "small.yaml").write_text(study)
    monkeypatch.setattr(inventory, "_folder", lambda kind: tmp_path / kind)


def test_recipes_have_names_data_sets_and_how_the_header_begins(shipped):
    assert listed("recipes", "fixmatch").splitlines() == [
        "fixmatch  FixMatch.  Source: a table whose name is long.",
        "  default, tllib:  CIFAR10, DTD",
        "  moco:            the same on every data set",
    ]
    assert listed("recipes").startswith(listed("recipes", "fixmatch"))


def test_studies_have_their_size(shipped):
    assert listed("studies") == "small  A small study (2 methods, 1 setting, 1 seed)"


@pytest.mark.parametrize(
    "argv,part",
    [
        (("method",), "did you mean methods?"),
        (("nonsense",), "known: archs, datasets, methods, recipes, studies"),
        (("recipes", "fixmtch"), "did you mean fixmatch"),
        (("recipes", "dst"), "dst has no recipe file"),
        (("methods", "fixmatch"), "leave the rest out"),
        (("archs", "a.py", "b.py"), "quote the pattern"),
        (("archs", "resnet5O"), "did you mean resnet50"),
        (("archs", "convmixer"), "'*convmixer*' matches "),
        (("archs", "wrn_29_2"), "6n + 4"),
    ],
)
def test_an_unknown_word_is_one_line_that_helps(capsys, shipped, argv, part):
    assert inventory.main(argv) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.startswith("ssl-bench list: error: ") and captured.err.count("\n") == 1
    assert part in captured.err


def test_archs_by_family_and_by_pattern():
    families = {line.split()[0]: line.split()[1:] for line in listed("archs").splitlines() if line}
    assert families["resnet"][1] == "resnet18" and int(families["vision_transformer"][0]) > 100
    assert families["wide_resnet"][1] == "wrn_28_2;"
    rows = {line.split()[0]: line.split()[1:] for line in listed("archs", "resnet5[0]").splitlines()}
    # TLlib's weights, not timm's default
    assert rows == {"name": ["family", "input", "weights"], "resnet50": ["resnet", "224", "tv_in1k"]}
    assert listed("archs", "vit_small_patch16_384").split()[-3:] == ["vision_transformer", "384", "augreg_in21k_ft_in1k"]
    assert listed("archs", "wrn_22_3").split()[-4:] == ["wrn_22_3", "wide_resnet", "32", "-"]
    assert listed("archs", "vit_small_patch16_36x1_224").split()[-1] == "-"
    tags = listed("archs", "resnet50.*").splitlines()
    assert len(tags) > 10 and any(line.startswith("resnet50.a1_in1k ") and line.endswith(" a1_in1k") for line in tags)


def test_a_long_last_cell_goes_on_under_itself():
    out = inventory.columns([("a", "1", "word " * 30), ("bcd", "20", "")], right=(1,), indent="  ")
    first, second, third = out.splitlines()
    assert first.startswith("  a     1  word word") and second.startswith(" " * 11 + "word") and third == "  bcd  20"
    assert len(first) <= inventory.WIDTH and (first + second).count("word") == 30


def test_two_stream_networks_are_listed_with_the_size_they_are_for():
    text = inventory.archs("semiformer_*")
    assert [line.split()[:3] for line in text.splitlines()[1:]][:1] == [["semiformer_small_patch16", "semiformer", "224"]]
    assert ["semiformer_tiny_patch4", "semiformer", "32", "-"] in [line.split() for line in text.splitlines()]
    assert "semiformer:CNN+ViT" in inventory.archs()
