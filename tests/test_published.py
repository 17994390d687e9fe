"""Published numbers: the shipped files say what was published, damaged ones are named, and tables show them as what they are."""

from __future__ import annotations

import configparser
import json
import math
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_tables import cells, write_run
from tllib import ALL, COMMANDS

from ssl_bench import catalog, published, zoo
from ssl_bench.nets import two_streams
from ssl_bench.runs import collect
from ssl_bench.tables import main, render, summarize, with_published

REPOSITORY = Path(__file__).parent.parent
FOLDER = REPOSITORY / "results" / "published"
# As TLlib's README states them, one seed each.
AVERAGES = {
    "tllib_supervised": {
        "erm": 54.5, "pseudo_label": 58.4, "pi_model": 55.6, "mean_teacher": 60.4, "uda": 60.4, "fixmatch": 59.0,
        "self_tuning": 63.0, "flexmatch": 68.3, "debiasmatch": 69.9, "dst": 71.1, "oracle": 85.8,
    },
    "tllib_moco": {
        "erm": 53.2, "pseudo_label": 57.3, "pi_model": 54.1, "mean_teacher": 58.2, "uda": 59.4, "fixmatch": 60.6,
        "self_tuning": 56.0, "flexmatch": 66.1, "debiasmatch": 67.6, "dst": 68.9, "oracle": 86.8,
    },
}  # fmt: skip
HEADER = ",".join(published.COLUMNS)
ROW = "fixmatch,,CIFAR100,4,resnet50,imagenet,58.0,,1,best,somewhere"


def file_with(tmp_path: Path, *rows: str, header: str = HEADER, name: str = "mine.csv") -> str:
    path = tmp_path / name
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(path)


# ---- the shipped tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AVERAGES)
def test_row_means_are_the_stated_averages(name):
    frame = published.read(name)
    assert len(frame) == 121 and set(frame["published"]) == {name}
    rows = frame.assign(row=frame["variant"].where(frame["variant"] != "", frame["method"])).groupby("row")["mean"]
    assert (rows.count() == 11).all() and set(rows.groups) == set(AVERAGES[name])
    for row, values in rows:
        assert abs(values.mean() - AVERAGES[name][row]) <= 0.06, row


def test_names_are_those_of_methods_and_data_sets():
    frame = published.read("tllib")
    assert len(frame) == 242
    assert set(frame["method"]) == set(ALL) - {"noisy_student"} <= set(catalog.method_names())
    assert set(frame["data"]) == {command["expected"]["data"] for command in COMMANDS if command["method"] == "erm"}
    if "Food101" in zoo.names():
        assert set(frame["data"]) <= set(zoo.names())
    assert set(frame["n"]) == {1} and set(frame["select"]) == {"best"} and set(frame["labels_per_class"]) == {4}
    assert set(zip(frame["published"], frame["arch"], frame["pretrained"], strict=True)) == {
        ("tllib_supervised", "resnet50", "imagenet"), ("tllib_moco", "resnet50", "moco_v2"),
    }  # fmt: skip


@pytest.mark.parametrize("method", sorted({*ALL} - {"noisy_student"}))
def test_the_header_of_a_recipe_states_the_published_numbers(method):
    text = (REPOSITORY / "recipes" / f"{method}.yaml").read_text(encoding="utf-8")
    order = list(dict.fromkeys(command["expected"]["data"] for command in COMMANDS))
    rows = re.findall(r"^#   (tllib[\w-]*): +([\d. ]+)$", text, re.M)
    shown = {recipe: [float(number) for number in row.split()] for recipe, row in rows}
    assert len(shown) == (4 if method == "erm" else 2)
    for recipe, numbers in shown.items():
        table = "tllib_moco" if "moco" in recipe else "tllib_supervised"
        variant = "oracle" if recipe.endswith("oracle") else ""
        frame = published.read(table).query("method == @method and variant == @variant").set_index("data")
        assert numbers[:-1] == [frame["mean"][data] for data in order]
        assert numbers[-1] == AVERAGES[table][variant or method]


def test_semi_vits_rows_are_its_readmes_and_say_what_is_secondary():
    frame = published.read("semi_vit")
    assert len(frame) == 27 and set(frame["method"]) == {"semi_vit"} and set(frame["data"]) == {"ImageNet"}
    assert set(frame["labels_per_class"]) == {13, 128, 0} and set(frame["pretrained"]) == {"mae", "dino", "none"}
    assert set(frame["variant"]) == {"", "finetune", "ema teacher without mixup"}
    secondary = frame["source"].str.contains("secondary, unchecked")
    assert (secondary == ((frame["variant"] == "ema teacher without mixup") | (frame["pretrained"] == "dino"))).all()
    assert frame["source"].str.contains("evaluation not stated").all()
    import timm

    assert all(timm.is_model(arch) for arch in set(frame["arch"]))


def test_the_header_of_semi_vits_recipes_states_the_published_numbers():
    text = (REPOSITORY / "recipes" / "semi_vit.yaml").read_text(encoding="utf-8")
    archs = {"vit_base": "vit_base_patch16_224", "vit_large": "vit_large_patch16_224", "vit_huge": "vit_huge_patch14_224"}
    frame = published.read("semi_vit")
    stated = re.findall(r"(mae|scratch)_(\w+)_(1|10|100)p ([\d.]+)(?: ([\d.]+))?", text)
    for start, network, share, *numbers in stated:
        of = frame[(frame["pretrained"] == start.replace("scratch", "none")) & (frame["arch"] == archs.get(network, network))]
        of = of[of["labels_per_class"] == {"1": 13, "10": 128, "100": 0}[share]].set_index("variant")["mean"]
        assert [float(number) for number in numbers if number] == [of[variant] for variant in ("finetune", "") if variant in of]
    assert len(stated) == 11


def test_semiformers_one_number_says_what_it_is_not_known_of():
    (row,) = published.read("semiformer").to_dict("records")
    wanted = ["semiformer", "", "ImageNet", 128, "semiformer_small_patch16", "none", "best", 75.5, 1]
    assert [row[name] for name in (*published.CELL, "mean", "n")] == wanted
    assert "sum of both streams" in row["source"] and "which script is not stated" in row["source"]
    header = (REPOSITORY / "recipes" / "semiformer.yaml").read_text(encoding="utf-8")
    assert "top-1 75.5 %" in header and "which script gave it is not stated" in header
    two_streams.check_name(row["arch"])


# Top-1 without, with absolute and with relative labels: of the README, and so of section 5 of the specification.
PLACED = {
    ("vit_base_patch16_224", "ImageNet"): [77.91, 79.11, 79.07], ("vit_base_patch16_224", "MiniImageNet"): [58.28, 64.43, 63.97],
    ("deit_base_patch16_224", "ImageNet"): [81.87, 82.49, 82.85], ("deit_base_patch16_224", "MiniImageNet"): [63.67, 66.49, 66.85],
    ("swin_base_patch4_window7_224", "ImageNet"): [83.35, 83.76, 84.09],
    ("swin_base_patch4_window7_224", "MiniImageNet"): [67.39, 68.91, 69.11],
    ("nest_base", "ImageNet"): [83.67, 84.13, 83.93], ("nest_base", "MiniImageNet"): [67.43, 68.73, 69.56],
}  # fmt: skip


def test_the_rows_of_positional_labels_are_its_readmes():
    frame = published.read("positional_label")
    assert len(frame) == 24 and set(frame["method"]) == {"positional_label"} and set(frame["labels_per_class"]) == {0}
    found = {cell: rows.set_index("variant")["mean"].to_dict() for cell, rows in frame.groupby(["arch", "data"])}
    variants = ("base", "positional=apl", "positional=rpl")
    assert found == {cell: dict(zip(variants, row, strict=True)) for cell, row in PLACED.items()}
    assert frame["source"].str.contains("not stated").all() and set(frame["pretrained"]) == {"none"}
    assert {*frame["data"]} <= {*zoo.names()}
    # Of the abstract's four gains three are in the README's table; Swin-B's on Mini-ImageNet, 1.14, is not.
    gains = {cell: {round(placed - base, 2) for placed in rest} for cell, (base, *rest) in PLACED.items()}
    vit, swin = "vit_base_patch16_224", "swin_base_patch4_window7_224"
    assert 1.20 in gains[vit, "ImageNet"] and 6.15 in gains[vit, "MiniImageNet"] and 0.74 in gains[swin, "ImageNet"]
    assert gains[swin, "MiniImageNet"] == {1.52, 1.72}
    import timm

    assert all(timm.is_model(arch) for arch in set(frame["arch"]))


def test_the_header_of_the_recipes_of_positional_labels_states_the_published_numbers():
    text = " ".join((REPOSITORY / "recipes" / "positional_label.yaml").read_text(encoding="utf-8").replace("#", "").split())
    form = r"(ViT-B|Swin-B) with (APL|RPL) ([\d.]+) \(without ([\d.]+)\), Mini-ImageNet ([\d.]+) \(([\d.]+)\)"
    stated = re.findall(form, text)
    archs = {"ViT-B": "vit_base_patch16_224", "Swin-B": "swin_base_patch4_window7_224"}
    assert [row[:2] for row in stated] == [("ViT-B", "APL"), ("ViT-B", "RPL"), ("Swin-B", "RPL")]
    for name, kind, *numbers in stated:
        values = [PLACED[archs[name], data][k] for data in ("ImageNet", "MiniImageNet") for k in (1 + (kind == "RPL"), 0)]
        assert [float(number) for number in numbers] == values


def test_the_files_are_part_of_an_installation():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    package = "ssl_bench.published_tables"
    assert f"{package} = results/published" in setup["options"]["package_dir"].splitlines()
    assert package in setup["options"]["packages"].split()
    assert setup["options.package_data"][package] == "*.csv"
    assert {path.stem for path in FOLDER.glob("*.csv")} == {*AVERAGES, "semi_vit", "semiformer", "positional_label"}


def test_an_installation_without_them_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ssl_bench.published_tables", None)
    with pytest.raises(ValueError, match="not installed with this ssl-bench"):
        published.read("tllib")
    assert len(published.read(file_with(tmp_path, ROW))) == 1


# ---- files -----------------------------------------------------------------------------------------------------------


def test_what_a_file_says_in_the_words_of_a_summary(tmp_path):
    name = file_with(tmp_path, ROW, "", ' erm , oracle ,Digits,0,vit,none,33.25,1.5,5,median20,"a, b"')
    first, second = published.read(name).to_dict("records")
    assert math.isnan(first.pop("std"))
    assert first == {
        "method": "fixmatch", "variant": "", "data": "CIFAR100", "labels_per_class": 4, "arch": "resnet50", "metric": "top1",
        "select": "best", "mean": 58.0, "n": 1, "expected": 1, "missing": "", "note": "", "pretrained": "imagenet",
        "source": "somewhere", "published": "mine",
    }  # fmt: skip
    assert (second["method"], second["variant"], second["mean"], second["std"], second["n"]) == ("erm", "oracle", 33.25, 1.5, 5)
    assert second["source"] == "a, b"
    Path(name).write_bytes(b"\xef\xbb\xbf" + Path(name).read_bytes().replace(b"\n", b"\r\n"))  # as a spreadsheet saves it
    assert len(published.read(name)) == 2


@pytest.mark.parametrize(
    ("rows", "line", "named"),
    [
        ([ROW.replace("58.0", "many")], 2, "top1 is 'many', not a percentage"),
        ([ROW, ROW.replace("58.0", "101").replace("fixmatch", "erm")], 3, "top1 is 101, not a percentage"),
        ([ROW.replace("58.0", "-1")], 2, "not a percentage"), ([ROW.replace("58.0", "nan")], 2, "not a percentage"),
        ([ROW.replace("58.0", "")], 2, "top1 is '', not a percentage"), ([ROW.replace("58.0,", "58.0,inf")], 2, "std is inf"),
        (["", ROW.replace("fixmatch", "fixmtch")], 3, "unknown method 'fixmtch'; did you mean fixmatch"),
        ([ROW.replace("best", "beast")], 2, "unknown select 'beast'"), ([ROW.replace(",best", ",")], 2, "unknown select ''"),
        ([ROW.replace(",1,", ",0,")], 2, "seeds is 0, not a whole number from 1"),
        ([ROW.replace(",1,", ",1.5,")], 2, "seeds is '1.5'"),
        ([ROW.replace(",4,", ",-4,")], 2, "labels_per_class is -4"), ([ROW.replace("CIFAR100", " ")], 2, "data is empty"),
        ([ROW.replace("somewhere", "")], 2, "source is empty"), ([ROW + ",more"], 2, "12 cells under 11 columns"),
        (["erm"], 2, "1 cells"),
        ([ROW, ROW.replace("58.0", "59")], 3, "the same cell as in line 2: fixmatch, CIFAR100, 4"),
        ([], 1, "no numbers below the header"), ([ROW, 'erm,"'], 3, "unexpected end of data"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_line_with_file_and_line(rows, line, named, tmp_path, capsys):
    name = file_with(tmp_path, *rows)
    assert main(["--published", name]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"{name}:{line}: " in err and named in err


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", ":1: lacks column arch"), (b"\n\n", ":1: lacks column"), (b"a,b\n1,2\n", ":1: lacks column arch, data"),
        (HEADER.replace("top1", "top-1").encode(), ":1: lacks column top1; the columns are method,"),
        (f"{HEADER},extra\n{ROW},1\n".encode(), ":1: has an unknown column extra"), (b"\xff\xfe", ": not a text file in UTF-8"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_one_line(content, named, tmp_path, capsys):
    (tmp_path / "x.csv").write_bytes(content)
    assert main(["--published", str(tmp_path / "x.csv")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"x.csv{named}" in err


@pytest.mark.parametrize(
    ("name", "named"),
    [("tlib", "did you mean tllib?"), ("usb", "known: positional_label, semi_vit, semiformer, tllib, tllib_moco"), ("gone.csv", "gone.csv"), ("", "tllib")],
)
def test_a_name_that_is_none(name, named, capsys):
    assert main(["--published", name]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and named in err


# ---- in a table ------------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path) -> Path:
    for seed in range(2):
        for arch in ("resnet50", "resnet18"):
            write_run(tmp_path / "own", "erm", data="CIFAR100", seed=seed, top1=(70.0, 40.0 + seed), arch=arch)
        write_run(tmp_path / "own", data="CIFAR100", seed=seed, top1=(60.0,), arch="resnet50")
        write_run(tmp_path / "own", data="DTD", seed=seed, top1=(50.0,))
        write_run(tmp_path / "own", data="CIFAR10", labels=25, seed=seed, top1=(80.0,))
    return tmp_path / "own"


def shown(runs: Path, *names: str, format: str = "github") -> str:
    numbers = pd.concat([published.read(name) for name in names])
    return render(with_published(summarize(collect([runs])), numbers), format)


def test_published_numbers_stand_in_the_columns_of_their_data_and_labels(runs):
    rows = cells(shown(runs, "tllib_supervised"))
    mark = "[tllib_supervised: resnet50, imagenet, best]"
    heads = rows["Method"]
    assert heads == [
        "CIFAR10, 25 labels/class, net", "CIFAR100, 4 labels/class, resnet18", "CIFAR100, 4 labels/class, resnet50",
        "DTD, 4 labels/class, net", "Average",
    ]  # fmt: skip
    # CIFAR10 was published with 4 labels; CIFAR100's network stands in a column of its own, DTD's in none.
    assert rows[f"fixmatch {mark}"] == ["–", "–", "58.0 (1)", "50.2 (1)", "–"]
    assert rows[f"erm (oracle) {mark}"] == ["–", "–", "86.3 (1)", "68.8 (1)", "–"]
    assert rows["erm"][1:3] == ["**40.5** ± 0.7 (2)", "40.5 ± 0.7 (2)"], "own rows are as without them"
    assert list(rows)[2:7] == ["erm", "fixmatch", f"erm {mark}", f"erm (oracle) {mark}", f"debiasmatch {mark}"]


def test_published_numbers_are_marked_and_never_ranked(runs):
    text = shown(runs, "tllib")
    rows = cells(text)
    assert rows["fixmatch"][2] == "**60.0** ± 0.0 (2)", "below seven published ones"
    assert not any("**" in cell for name, row in rows.items() if "[" in name for cell in row)
    caption = text.splitlines()[0]
    assert "last evaluation" in caption and "published numbers, not ranked" in caption
    assert "tllib_moco from TLlib's README, commit c4aa59e" in caption and "best = best on the test set (optimistic" in caption
    assert text.count("[tllib_moco: resnet50, moco_v2, best]") == text.count("[tllib_supervised: resnet50, imagenet, best]") == 11


def test_without_own_runs_the_published_table_is_printed_whole(capsys, tmp_path):
    assert main(["--published", "tllib_supervised"]) == 0
    out, err = capsys.readouterr()
    rows = cells(out)
    mark = "[tllib_supervised: resnet50, imagenet, best]"
    assert len(rows) == 13 and len(rows["Method"]) == 12
    for row, average in AVERAGES["tllib_supervised"].items():
        name = "erm (oracle)" if row == "oracle" else row
        assert abs(float(rows[f"{name} {mark}"][-1]) - average) <= 0.1001, "of the printed average, to its last digit"
    assert "4 labels per class; resnet50" in out.splitlines()[0] and "last evaluation" not in out and "**" not in out
    assert err == "no own runs\n" and not list(tmp_path.iterdir()), "no empty runs.csv over the one that is there"
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), "--published", "tllib_supervised"]) == 0
    assert capsys.readouterr().out == out
    assert main([str(tmp_path / "absent"), "--published", "tllib_supervised"]) == 2


def test_networks_of_a_file_are_rows_and_all_labels_the_last_column(tmp_path):
    every, more = ROW.replace("CIFAR100,4", "CIFAR100,0"), ROW.replace("CIFAR100,4", "CIFAR100,25").replace("58.0,,1", "61.0,0.5,3")
    name = file_with(tmp_path, every, ROW, ROW.replace("resnet50", "vit").replace("58.0", "77.0"), more)
    text = render(with_published(summarize(collect([])), published.read(name)))
    rows = cells(text)
    assert rows["Method"] == ["CIFAR100, 4 labels/class", "CIFAR100, 25 labels/class", "CIFAR100, all labels/class", "Average"]
    assert rows["fixmatch [mine: resnet50, imagenet, best]"] == ["58.0 (1)", "61.0 ± 0.5 (3)", "58.0 (1)", "59.0"]
    assert rows["fixmatch [mine: vit, imagenet, best]"] == ["77.0 (1)", "–", "–", "–"]
    assert text.startswith("Top-1 accuracy (%), mean ± std (n seeds). In [ ]")


@pytest.mark.parametrize("format", ["github", "latex"])
def test_semi_vits_numbers_print_a_row_a_network(capsys, tmp_path, format):
    assert main([str(tmp_path), "--published", "semi_vit", "--format", format]) == 0
    out, err = capsys.readouterr()
    row = "semi_vit (finetune) [semi_vit: vit_large_patch16_224, mae, best]"
    if format == "latex":
        row = row.replace("_", r"\_").replace("[", "{[}")
        assert rf"{row} & 67.1 (1) & 79.2 (1) & 86.0 (1) & 77.4 \\" in out
    else:
        rows = cells(out)
        assert rows["Method"] == ["ImageNet, 13 labels/class", "ImageNet, 128 labels/class", "ImageNet, all labels/class", "Average"]
        assert rows[row] == ["67.1 (1)", "79.2 (1)", "86.0 (1)", "77.4"] and len(rows) == 2 + 17
    assert out.count("semi_vit from ") + out.count(r"semi\_vit from ") == 1 and out.count("secondary, unchecked") == 2
    assert "chosen on the test set" in out and err == "no own runs\n"


def test_own_runs_of_a_published_split_stand_beside_semi_vits(tmp_path):
    """Labels of --labeled-list count as their rounded mean, as `ssl_bench.pools.labels_per_class` records them."""
    for labels, file in ((13, "train_1p_index.csv"), (128, "train_10p_index.csv")):
        folder = write_run(tmp_path, "semi_vit", "ImageNet", labels, arch="vit_base_patch16_224", top1=(60.0 + labels / 100,), labeled_list=file)
        for name in ("args.json", "result.json"):
            record = json.loads((folder / name).read_text())
            record["args"]["num_samples_per_class"] = 4  # the flag's default, which the list goes over
            (folder / name).write_text(json.dumps(record | {"lists": {"labeled_list": "0" * 64}, "labels_per_class": labels}))
    rows = cells(shown(tmp_path, "semi_vit"))
    assert rows["Method"] == ["ImageNet, 13 labels/class", "ImageNet, 128 labels/class", "Average"]
    assert rows["semi_vit"] == ["**60.1** (1)", "**61.3** (1)", "**60.7**"]
    assert rows["semi_vit [semi_vit: vit_base_patch16_224, mae, best]"] == ["71.0 (1)", "79.7 (1)", "75.3"]
    assert rows["semi_vit (finetune) [semi_vit: vit_base_patch16_224, mae, best]"][:2] == ["57.4 (1)", "73.7 (1)"]
    assert rows["semi_vit (ema teacher without mixup) [semi_vit: vit_base_patch16_224, none, best]"][:2] == ["–", "68.9 (1)"]


def test_own_runs_of_positional_labels_have_the_variants_of_the_published_rows(tmp_path):
    vit = "vit_base_patch16_224"
    for kind, top1 in (("apl", 78.0), ("rpl", 79.0)):
        write_run(tmp_path, "positional_label", "ImageNet", 0, arch=vit, top1=(top1,), all_labeled=True, positional=kind)
    rows = cells(shown(tmp_path, "positional_label"))
    mark = "[positional_label: vit_base_patch16_224, none, best]"
    for variant, own, theirs in (("base", None, "77.9"), ("positional=apl", "78.0", "79.1"), ("positional=rpl", "**79.0**", "79.1")):
        name = f"positional_label ({variant})"
        assert rows.get(name) == (own and [f"{own} (1)"]) and rows[f"{name} {mark}"] == [f"{theirs} (1)"]
    numbers = with_published(summarize(collect([tmp_path])), published.read("positional_label"))
    at_home = numbers[numbers["arch"] == vit].groupby("variant")["published"].agg(sorted)
    assert at_home["positional=rpl"] == ["", "positional_label"], "ours and theirs, by one name"


def test_an_own_run_stands_beside_semiformers_number(tmp_path):
    write_run(tmp_path, "semiformer", "ImageNet", 128, arch="semiformer_small_patch16", top1=(70.0,))
    rows = cells(shown(tmp_path, "semiformer"))
    assert rows["semiformer"] == ["**70.0** (1)"]
    assert rows["semiformer [semiformer: semiformer_small_patch16, none, best]"] == ["75.5 (1)"]


def test_formats(runs):
    latex = shown(runs, "tllib_moco", format="latex")
    assert r"fixmatch {[}tllib\_moco: resnet50, moco\_v2, best] & -- & -- & 58.0 (1) & 53.1 (1) & -- \\" in latex
    head, *lines = shown(runs, "tllib_moco", format="csv").splitlines()
    assert head.endswith("n,expected,missing,pretrained,source,published")
    assert "fixmatch,,DTD,4,resnet50,top1,best,53.1,,1,1,,moco_v2,\"TLlib's README, commit c4aa59e\",tllib_moco" in lines
    assert "fixmatch,,DTD,4,net,top1,last,50.0,0.0,2,2,,,," in lines


def test_order_does_not_matter_and_a_table_named_twice_counts_once(runs, capsys):
    argv = [str(runs), "--runs-csv", ""]
    tables = []
    for names in (("tllib",), ("tllib_moco", "tllib_supervised"), ("tllib_supervised", "tllib", "tllib_moco")):
        assert main([*argv, *(word for name in names for word in ("--published", name))]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] == tables[2]


def test_two_files_of_one_name_that_disagree_are_refused(runs, tmp_path, capsys):
    shutil.copytree(FOLDER, tmp_path / "copy")
    path = tmp_path / "copy" / "tllib_moco.csv"
    path.write_text(path.read_text().replace(",58.0,", ",85.0,"))
    assert main([str(runs), "--published", "tllib_moco", "--published", str(path)]) == 2
    assert "two numbers for fixmatch on CIFAR100 from tables named tllib_moco" in capsys.readouterr().err


def test_nothing_published_for_own_columns_is_said(tmp_path, capsys):
    write_run(tmp_path / "own")
    assert main([str(tmp_path / "own"), "--published", "tllib", "--runs-csv", ""]) == 0
    out, err = capsys.readouterr()
    assert list(cells(out))[2:] == ["fixmatch"] and "In [ ]" not in out and err.startswith("note: nothing published")


def test_published_numbers_are_top1(capsys, runs):
    assert main([str(runs), "--published", "tllib", "--metric", "mean_class"]) == 2
    assert "leave out --metric mean_class" in capsys.readouterr().err
