"""``from ssl_bench import run, table``."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest
from conftest import TINY

import ssl_bench
from ssl_bench.args import TwoViewArgs
from ssl_bench.method import Method

FLAGS = {"image_size": 8, "arch": "test_resnet", "bottleneck_dim": 16, "batch_size": 8, "epochs": 2, "iters_per_epoch": 3, "lr": 0.01,
         "lr_scheduler": "constant", "print_freq": 2, "device": "cpu", "norm_mean": (0.5, 0.5, 0.5)}  # fmt: skip


class Mine(Method):
    """A method of one's own."""

    name, Args = "mine", TwoViewArgs

    def train_step(self, batch, loop):
        return self.supervised(self.forwards(*batch.x_l), batch.y_l, loop)


def test_the_package_alone_loads_nothing_and_a_table_needs_no_torch():
    code = (
        "import sys, ssl_bench; assert not {'torch', 'pandas', 'timm', 'numpy'} & {*sys.modules}\n"
        "assert ssl_bench.__version__ and 'run' in ssl_bench.__all__\n"
        "from ssl_bench import table\n"
        "try:\n    table('nowhere')\nexcept FileNotFoundError:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ssl_bench.trian  # noqa: B018


def test_run_trains_finds_it_done_and_the_table_has_it(tmp_path, capsys):
    first = ssl_bench.run("erm", FLAGS | {"log": str(tmp_path)})
    assert "last_acc1" in capsys.readouterr().out
    assert first.folder.parts[-4:-1] == ("erm", "Digits", "4x") and len(first.evaluations) == 2
    assert first.top1 == first.evaluations[-1]["top1"] <= first.best_top1
    again = ssl_bench.run("erm", FLAGS | {"log": str(tmp_path)})
    assert "is done already" in capsys.readouterr().out and again == first
    (row,) = ssl_bench.table(tmp_path).to_dict("records")
    assert row["method"] == "erm" and row["mean"] == pytest.approx(first.top1) and row["n"] == 1
    (row,) = ssl_bench.table([tmp_path], select="best", metric="mean_class").to_dict("records")
    assert row["mean"] == max(each["mean_class"] for each in first.evaluations)


def test_it_is_the_commands_run(tmp_path):
    from ssl_bench import catalog, launch

    assert launch.run_command(catalog.load_method("erm"), [*TINY, "--log", str(tmp_path)]) == 0
    (folder,) = tmp_path.glob("*/*/*/*")
    args = json.loads((folder / "args.json").read_text())["args"]
    before = (folder / "result.json").stat().st_mtime_ns
    assert ssl_bench.run("erm", {**FLAGS, "norm_mean": args["norm_mean"], "recipe": "default", "log": str(tmp_path)}).folder == folder
    assert (folder / "result.json").stat().st_mtime_ns == before


def test_a_method_of_ones_own_in_a_thread(tmp_path):
    found = []

    def work() -> None:
        found.append(ssl_bench.run(Mine, FLAGS | {"epochs": 1, "log": str(tmp_path)}))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].result["method"] == "mine" and (found[0].folder / "result.json").is_file()


@pytest.mark.parametrize(
    "method,flags,message",
    [
        ("fixmach", {}, "unknown method 'fixmach'; did you mean fixmatch"),
        ("fixmatch", {"treshold": 0.5}, "unknown key 'treshold'; did you mean threshold"),
        ("fixmatch", {"threshold": -1}, "out of range"),
        ("fixmatch", {"epochs": "many"}, "--epochs takes a whole number"),
        ("fixmatch", {"phase": "test"}, "run\\(\\) trains"),
        ("fixmatch", {"data": "CIFAR10"}, "CIFAR10 needs a root folder"),
        ("fixmatch", {"device": "tpu"}, "--device tpu is not to be had"),
    ],
)
def test_what_is_wrong_is_raised_and_named(method, flags, message):
    with pytest.raises(ValueError, match=message):
        ssl_bench.run(method, flags)


def test_an_unknown_selection():
    with pytest.raises(FileNotFoundError):
        ssl_bench.table("nowhere")
