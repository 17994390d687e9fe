"""A run opened for use: which weights, which classes, and every way in which there is nothing to open."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY, only_run

from ssl_bench import catalog, launch
from ssl_bench.export import export
from ssl_bench.trained import open_trained

AGREE = '''
from ssl_bench.args import TwoViewArgs
from ssl_bench.launch import launch
from ssl_bench.method import Method
class Agree(Method):
    name, Args = "agree", TwoViewArgs
    def train_step(self, batch, loop):
        return self.supervised(self.forwards(*batch.x_l), batch.y_l, loop)
if __name__ == "__main__":
    launch(Agree)
'''


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory) -> Path:
    log = tmp_path_factory.mktemp("trained")
    assert launch.run_command(catalog.load_method("erm"), [*TINY, "--log", str(log)]) == 0
    return only_run(log)


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    return Path(shutil.copytree(trained_run, tmp_path / "logs" / "erm" / "Digits" / "4x" / trained_run.name))


def test_folder_file_and_log_folder_are_one_network(run):
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ways = [open_trained(path) for path in (run, run / "checkpoints" / "latest.pth", run.parents[3])]
    assert all(torch.equal(way.predict(x), ways[0].predict(x)) for way in ways) and not ways[0].method.training
    assert ways[0].classes == tuple(map(str, range(10))) and ways[0].view.image_size == 8 and ways[0].notes == ()


def test_best_is_another_file(run):
    assert open_trained(run, best=True).file.name == "best.pth"
    with pytest.raises(ValueError, match="--best is for a run's folder"):
        open_trained(run / "checkpoints" / "latest.pth", best=True)


def test_an_unfinished_run_is_opened_only_when_asked(run):
    (run / "result.json").unlink()
    for path in (run, run / "checkpoints" / "latest.pth"):
        with pytest.raises(ValueError, match="not finished: its own command continues it; --unfinished"):
            open_trained(path)
        open_trained(path, unfinished=True)


def test_a_lone_file_needs_its_arguments(run, tmp_path):
    alone = Path(shutil.copy(run / "checkpoints" / "latest.pth", tmp_path / "alone.pth"))
    with pytest.raises(ValueError, match="lies in no run: give its run's args.json with --args FILE"):
        open_trained(alone)
    assert open_trained(alone, args_file=run / "args.json").classes == tuple(map(str, range(10)))


def test_older_runs_get_names_from_the_data_or_numbers_and_a_note(run):
    (run / "classes.json").unlink()
    assert open_trained(run).named
    body = json.loads((run / "args.json").read_text())
    for data, why in (("CIFAR10", "is not where it was"), ("os:system", "a function of one's own")):
        body["args"] |= {"data": data, "root": "nowhere"}
        (run / "args.json").write_text(json.dumps(body))
        opened = open_trained(run)
        assert not opened.named and why in opened.notes[0] and opened.classes[3] == "3"


def test_a_data_set_of_ones_own_is_not_called_because_a_file_names_it(run, tmp_path, monkeypatch):
    (run / "classes.json").unlink()
    (tmp_path / "evil.py").write_text("open('evil was here', 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    body = json.loads((run / "args.json").read_text())
    body["args"]["data"] = "evil:Name"
    (run / "args.json").write_text(json.dumps(body))
    open_trained(run)
    assert not Path("evil was here").exists()


@pytest.mark.parametrize("names", [["a"], "ten", [1] * 10, None])
def test_a_wrong_classes_json_is_one_line(run, names):
    (run / "classes.json").write_text(json.dumps(names) if names is not None else "{")
    with pytest.raises(ValueError, match="classes.json"):
        open_trained(run)


class Bomb:
    def __reduce__(self):
        return open, ("bomb", "w")


def test_pickle_bombs_and_broken_files_are_refused(run):
    file = run / "checkpoints" / "latest.pth"
    file.write_bytes(pickle.dumps({"head.weight": Bomb()}))
    with pytest.raises(ValueError, match="refused|no checkpoint"):
        open_trained(run)
    assert not Path("bomb").exists()
    torch.save({"head.weight": Bomb()}, file)
    with pytest.raises(ValueError, match="could run code, refused"):
        open_trained(run)
    assert not Path("bomb").exists()


def test_weights_of_another_network_are_refused(run):
    body = json.loads((run / "args.json").read_text())
    body["args"]["bottleneck_dim"] = 0
    (run / "args.json").write_text(json.dumps(body))
    with pytest.raises(ValueError, match="belongs to another network"):
        open_trained(run)


@pytest.mark.parametrize("text", ["{", "[]", '{"method": "erm"}', '{"method": "os", "args": {}}', '{"method": "erm", "args": {"lrr": 1}}'])
def test_a_broken_record_is_one_line(run, text):
    (run / "args.json").write_text(text)
    with pytest.raises(ValueError, match="no JSON|no record|no method of the suite|unknown key 'lrr'"):
        open_trained(run)


def test_what_is_not_there(run, tmp_path):
    for path, message in ((tmp_path / "gone", "no file or folder"), (run / "checkpoints", "no run's folder")):
        with pytest.raises(FileNotFoundError, match=message):
            open_trained(path)
    shutil.copytree(run, run.with_name("1-other"))
    with pytest.raises(FileNotFoundError, match="holds 2 runs: name one"):
        open_trained(tmp_path / "logs")


def test_a_method_of_ones_own_is_named_by_its_script(run, tmp_path):
    body = json.loads((run / "args.json").read_text())
    body["method"] = "agree"
    del body["args"]["oracle"]
    (run / "args.json").write_text(json.dumps(body))
    with pytest.raises(ValueError, match="name its script with --method agree.py"):
        open_trained(run)
    script = tmp_path / "agree.py"
    script.write_text(AGREE)
    assert type(open_trained(run, script=str(script)).method).__name__ == "Agree"
    export(open_trained(run, script=str(script)), "safetensors", tmp_path / "agree.safetensors")
    script.write_text(AGREE.replace('"agree"', '"other"'))
    with pytest.raises(ValueError, match="defines other"):
        open_trained(run, script=str(script))
    with pytest.raises(ValueError, match="no method's script"):
        open_trained(run, script=str(tmp_path / "gone.py"))


@pytest.mark.parametrize(("text", "words"), [
    ("def broken(:\n", "line 1: SyntaxError"), ("import nowhere_at_all\n", "line 1: ModuleNotFoundError"), ("\n1 / 0\n", "line 2: ZeroDivisionError"),
])  # fmt: skip
def test_a_script_that_cannot_be_run_is_one_line(run, tmp_path, text, words):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        open_trained(run, script=str(tmp_path / "own.py"))
    assert "\n" not in str(error.value) and "own.py" in str(error.value)


def test_arguments_that_are_not_utf8_name_their_file(run):
    (run / "args.json").write_bytes(b"{\"a\": \"\xff\"}")
    with pytest.raises(ValueError, match="args.json is no JSON"):
        open_trained(run)


@pytest.mark.parametrize("pair", ["checkpoint_path=/tmp/any", "pretrained=True", "pretrained_cfg=x", "cache_dir=/tmp"])
def test_a_records_arguments_cannot_open_other_files(run, pair):
    body = json.loads((run / "args.json").read_text())
    body["args"]["model_kwargs"] = [pair]
    (run / "args.json").write_text(json.dumps(body))
    with pytest.raises(ValueError, match="where weights come from"):
        open_trained(run)
