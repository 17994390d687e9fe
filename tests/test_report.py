"""ssl-bench report: what stands in the one file, and that nothing from a file or a name can do anything there but be read."""

from __future__ import annotations

import configparser
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from test_tables import six_blocks, write_run

from ssl_bench import catalog, defaults, flags, launch, published, record, report, run_details, run_state
from ssl_bench.runs import collect, write_runs_csv
from ssl_bench.tables import statistics_tables

DIGITS = Path(__file__).parent.parent / "results" / "digits"
EVIL = "</script><script>alert(1)</script>"


def embedded(content: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', content, re.DOTALL)[1])


@pytest.fixture(scope="module")
def digits():
    return report.page_data([DIGITS], figures=False)


def test_one_record_a_run_with_what_a_reader_needs_of_it(digits):
    assert len(digits["runs"]) == 140 and not digits["left_out"] and not digits["omitted"]
    run = next(run for run in digits["runs"] if run["id"] == "ccf54a9fc651")
    assert digits["rows"][run["row"]] == {"method": "fixmatch", "variant": "", "oracle": False}
    assert digits["columns"][run["column"]] == {"data": "Digits", "labels": 4, "arch": "test_resnet"}
    assert run["scores"]["top1"][:2] == [92.2, 92.2] and run["args"]["threshold"] == 0.8 and run["split_labeled"]
    steps, top1 = run["curves"]["test top1"]
    assert digits["steps"][steps] == list(range(25, 251, 25)) and top1[0] == 55.8
    assert digits["environments"][run["environment"]]["packages"]["timm"]


def test_arguments_are_the_defaults_and_what_differs_from_them(digits):
    run = next(run for run in digits["runs"] if run["id"] == "ccf54a9fc651")
    unset = digits["unset"][run["unset"]]
    whole = {name: value for name, value in digits["defaults"]["fixmatch"].items() if name not in unset} | run["args"]
    assert whole == json.loads((next(DIGITS.rglob("1-ccf54a9fc651")) / "args.json").read_text())["args"]


@pytest.mark.parametrize("name", catalog.method_names())
def test_defaults_read_from_a_script_are_those_of_its_class(name):
    specs = flags.specs(catalog.load_method(name).Args)
    found = defaults.flag_defaults(name)
    plain = {key: [*spec.default] if isinstance(spec.default, tuple) else spec.default for key, spec in specs.items()}
    assert {key: default.value for key, default in found.items()} == plain
    assert {key: default.none for key, default in found.items()} == {key: spec.metadata["none"] for key, spec in specs.items()}


def test_the_command_gives_the_same_run(tmp_path):
    for file in sorted(DIGITS.rglob("args.json"))[::6]:
        begun = json.loads(file.read_text())
        word, method, *argv = shlex.split(defaults.command(begun["method"], begun["args"]))
        args, _ = launch.resolve(catalog.load_method(method), argv)
        assert word == "ssl-bench" and record.args_hash(method, args) == begun["args_hash"], file
    assert defaults.command("my_own", {"seed": 0}) == ""


@pytest.mark.parametrize(("folder", "runs"), [pytest.param(DIGITS / "pi_model", 10), pytest.param(DIGITS, 140, marks=pytest.mark.slow)])
def test_the_page_is_one_file_that_asks_nobody(folder, runs, tmp_path, capsys):
    assert report.main([str(folder), "--out", str(tmp_path / "new" / "report.html"), "--title", "Mine & yours"]) == 0
    out, err = capsys.readouterr()
    assert f"{runs} of {runs} runs done" in out and not err
    content = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert "<title>Mine &amp; yours</title>" in content and "default-src 'none'" in content and "connect-src" not in content
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", content) and "http://www.w3.org/2000/svg" in content
    assert set(re.findall(r"https?://[\w.]+", content)) == {"http://www.w3.org"}


def test_names_and_texts_of_files_stay_text(tmp_path):
    folder = write_run(tmp_path / "log", data=EVIL, method="fixmatch", arch=EVIL, note=EVIL)
    (folder / "classes.json").write_text(json.dumps([EVIL, "b"]))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 5, "kind": "warning", "text": EVIL}) + "\n" + json.dumps({"step": 5, "kind": "test", EVIL: 3}))
    np.savez(folder / "predictions.npz", target=np.array([0, 1], np.int32), prediction=np.array([0, 0], np.int32), confidence=np.array([0.5, 0.9], np.float32))
    data = report.page_data([tmp_path], figures=False)
    content = report.page(data, EVIL + "{{script}}").decode()
    assert content.count("<script") == content.count("</script>") == 2 and "alert(1)</script>" not in content
    assert embedded(content) == json.loads(json.dumps(data)) and "{{script}}" in content
    (run,) = data["runs"]
    assert run["warnings"] == [(5, EVIL)] and run["predictions"]["classes"] == [EVIL, "b"] and f"test {EVIL}" in run["curves"]


def test_predictions_become_classes_confusions_and_calibration(tmp_path):
    target, prediction = np.array([0, 0, 0, 1, 2], np.int32), np.array([0, 1, 1, 1, 0], np.int32)
    np.savez(tmp_path / "predictions.npz", target=target, prediction=prediction, confidence=np.full(5, 0.5, np.float32))
    found = run_details.predictions(tmp_path, 4)
    assert found["per_class"] == [[0.3333, 3], [1.0, 1], [0.0, 1], [None, 0]] and found["classes"] == ["0", "1", "2", "3"]
    assert found["confused"] == [[0, 1, 2], [2, 0, 1]] and found["matrix"][0] == [1, 2, 0, 0]
    assert found["bins"] == [[0.5, 0.4, 5]] and found["ece"] == 0.1
    assert run_details.predictions(tmp_path / "elsewhere", 4) is None


def test_of_a_hundred_thousand_classes_a_page_shows_the_least_right(tmp_path):
    """All of them would be a megabyte of the page, and a matrix of them 75 GiB."""
    target = np.arange(100_000, dtype=np.int32)
    prediction = np.where(target % 100 == 3, 7, target).astype(np.int32)  # 1,000 are wrong
    np.savez(tmp_path / "predictions.npz", target=target, prediction=prediction, confidence=np.full(100_000, 0.5, np.float32))
    (tmp_path / "classes.json").write_text(json.dumps([f"class {k}" for k in target.tolist()]))
    found = run_details.predictions(tmp_path, 100_000)
    assert found["num_classes"] == 100_000 and found["matrix"] is None and len(json.dumps(found)) < 60_000
    assert len(found["per_class"]) == 1_000 and all(each == [0.0, 1] for each in found["per_class"])
    assert found["classes"][:2] == ["class 3", "class 103"] and len(found["confused"]) == 30
    assert {found["classes"][predicted] for _, predicted, _ in found["confused"]} == {"class 7"}


def test_broken_foreign_and_double_runs_are_left_out_by_name(tmp_path, capsys):
    whole = write_run(tmp_path / "log")
    shutil.copytree(whole, tmp_path / "copy" / "fixmatch" / "Digits" / "4x" / whole.name)
    broken = write_run(tmp_path / "log", seed=1, top1=None)
    (broken / "args.json").write_text("{")
    foreign = write_run(tmp_path / "log", seed=2)
    (foreign / "predictions.npz").write_bytes(b"PK")
    data = report.page_data([tmp_path], figures=False)
    assert [run["seed"] for run in data["runs"]] == [0, 2]
    assert len(data["left_out"]) == len(set(data["left_out"])) == 3
    for part in (f"{broken}/args.json", "the same run as", f"{foreign}/predictions.npz"):
        assert sum(part in line for line in data["left_out"]) == 1, part
    assert not capsys.readouterr().err
    assert report.main([str(tmp_path), "--out", str(tmp_path / "report.html")]) == 0
    err = capsys.readouterr().err.splitlines()
    assert err == [f"ssl-bench report: warning: {line}" for line in data["left_out"]]


def test_a_run_that_goes_on_shows_where_it_is_and_one_that_failed_why(tmp_path):
    going = write_run(tmp_path, top1=None, epochs=4, iters_per_epoch=10)
    (going / "metrics.jsonl").write_text(json.dumps({"step": 20, "kind": "test", "top1": 41.5}) + '\n{"step": 2')
    failed = write_run(tmp_path, top1=None, seed=1)
    (failed / "failed.json").write_text(json.dumps({"message": "the loss is nan", "exit_code": 1}))
    first, second = report.page_data([tmp_path], figures=False)["runs"]
    assert first["progress"] == {"step": 20, "total": 40, "top1": 41.5} and first["state"] == "incomplete"
    assert second["state"] == "failed" and second["message"] == "the loss is nan"
    with run_state.held(going), run_state.held(failed):
        first, second = report.page_data([tmp_path], figures=False)["runs"]
    assert first["state"] == second["state"] == "running" and f"process {os.getpid()} on " in first["message"]
    (going / "result.json").write_text("{")  # there, and nothing to count
    assert report.page_data([tmp_path], figures=False)["runs"][0]["state"] == "incomplete"


def test_curves_are_thinned_and_keep_their_ends():
    rows = [{"step": step, "kind": "train", "loss": step / 7} for step in range(1, 1001)]
    steps, values = run_details.series(rows, 200)["train loss"]
    assert len(steps) == 200 and (steps[0], steps[-1]) == (1, 1000) and values[-1] == 142.9


def test_statistics_are_those_that_table_prints(tmp_path, monkeypatch):
    frame = six_blocks(tmp_path)
    (ranks, pairs), _ = statistics_tables(frame, "best", "top1", "columns", "")
    found = [block for block in report.page_data([tmp_path], figures=False)["statistics"] if block["select"] == "best"]
    for block, table in zip(found, (ranks, pairs), strict=True):
        assert (block["text"], block["head"], block["foot"]) == (table.caption, table.header, table.foot)
        assert [["".join(cell) for cell in row] for row in block["rows"]] == [[cell.text for cell in row] for row in table.body]
    assert found[0]["rows"][0] == ["a", ["1.00", ""], "83.0", "12/0/0"] and "title" not in found[0] and found[1]["title"]
    monkeypatch.setattr(report, "MOST_PAIRED", 2)
    assert ["rows" in block for block in report.page_data([tmp_path], figures=False)["statistics"]][:2] == [True, False]


def test_too_few_blocks_are_a_sentence(digits):
    assert {block["select"] for block in digits["statistics"]} == {"last", "best", "median20"}
    assert all("rows" not in block and "No statistics over 2 blocks" in block["text"] for block in digits["statistics"])


def test_without_matplotlib_the_page_says_so_and_other_modules_may_not_lack(tmp_path, monkeypatch):
    frame = collect([write_run(tmp_path)])
    for missing, hidden in (("matplotlib", "drawing"), ("ssl_bench.gallery", "gallery")):
        with monkeypatch.context() as patch:
            for name in [name for name in sys.modules if name.startswith("matplotlib") or name in ("ssl_bench.drawing", "ssl_bench.gallery")]:
                patch.delitem(sys.modules, name)
            patch.delattr("ssl_bench." + hidden, raising=False)
            patch.setitem(sys.modules, missing, None)
            if missing == "matplotlib":
                assert "ssl-bench[report]" in report._figures(frame, {})["figures_missing"]
            else:
                with pytest.raises(ModuleNotFoundError):
                    report._figures(frame, {})


def test_of_too_many_runs_the_numbers_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "DETAILED_RUNS", 1)
    for seed in range(2):
        (write_run(tmp_path, seed=seed) / "metrics.jsonl").write_text(json.dumps({"step": 5, "kind": "test", "top1": 1.0}))
    data = report.page_data([tmp_path], figures=False)
    assert "2 runs are more than 1" in data["omitted"] and not any(run["curves"] for run in data["runs"])


def test_runs_csv_and_published_numbers_are_enough(tmp_path):
    write_run(tmp_path / "log", data="CIFAR100", labels=4, arch="resnet50")
    data = report.page_data([tmp_path / "log"], published.read_all(["tllib"]), figures=False)
    assert {line["data"] for line in data["published"]} == {"CIFAR100"} and all(line["source"] for line in data["published"])
    report.page(data, "x")
    write_runs_csv(collect([tmp_path / "log"]), tmp_path / "runs.csv")
    (run,) = report.page_data([tmp_path / "runs.csv"], figures=False)["runs"]
    assert run["scores"]["top1"][0] == 60.0 and run["curves"] == {}


@pytest.mark.parametrize(("argv", "part"), [(["nowhere"], "nowhere"), ([".", "--published", "tlib"], "tllib"), (["."], "no runs found")])
def test_nothing_to_show_is_one_line(argv, part, capsys):
    assert report.main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("ssl-bench report: error: ") and err.count("\n") == 1 and part in err


def test_a_report_needs_no_torch():
    code = f"import sys; from ssl_bench import report, watch; print(len(report.page_data([{str(DIGITS / 'semi_vit')!r}])['figures'])); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 1, done.stderr


@pytest.mark.slow
def test_what_is_installed_has_the_page(tmp_path):
    pytest.importorskip("setuptools")
    build = "import setuptools; setuptools.setup()"
    command = [sys.executable, "-c", build, "-q", "egg_info", "--egg-base", str(tmp_path), "build", "--build-base", str(tmp_path / "build")]
    subprocess.run(command, cwd=DIGITS.parents[1], check=True, capture_output=True)
    write_run(tmp_path / "log")
    code = "import ssl_bench; print(ssl_bench.__file__); from ssl_bench import report; print(len(report.page(report.page_data(['log'], figures=False), 'x')))"
    there = {**os.environ, "PYTHONPATH": str(tmp_path / "build" / "lib")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=there, check=True, capture_output=True, text=True)
    where, size = done.stdout.split()
    assert where.startswith(str(tmp_path)) and int(size) > 50_000


def test_setup_installs_every_file_of_the_page():
    setup = configparser.ConfigParser()
    setup.read(DIGITS.parents[1] / "setup.cfg")
    patterns = setup["options.package_data"]["ssl_bench"].split()
    files = [file for file in resources.files("ssl_bench").joinpath("page").iterdir() if file.is_file()]
    assert {"report.html", "report.css", *report.SCRIPTS} == {file.name for file in files}
    assert all(any(fnmatch.fnmatch(f"page/{file.name}", pattern) for pattern in patterns) for file in files)
