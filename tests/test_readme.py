"""The README's examples run as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_bench import cli

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = dict(re.findall(r"`(\w+\.py)`[^`]*?:\n\n```python\n(.*?)```", README, re.DOTALL))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in BLOCKS.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*argv: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [".", os.environ.get("PYTHONPATH", "")]))}
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=False, env=env)


@pytest.mark.slow
def test_the_example_method_trains_and_the_example_data_set_loads(folder):
    assert set(BLOCKS) == {"stripes.py", "agree.py", "compare.py"}
    assert 35 <= len(BLOCKS["agree.py"].splitlines()) <= 50
    flags = "-d stripes:Stripes -a test_resnet --scratch --image-size 16 --epochs 2 --iters-per-epoch 20 --print-freq 20 --log out".split()
    done = run("agree.py", *flags)
    assert done.returncode == 0, done.stderr
    (result,) = folder.rglob("result.json")
    body = json.loads(result.read_text())
    assert body["method"] == "agree" and body["num_labeled"] == 8 and body["evaluations"][-1]["top1"] > 60


@pytest.mark.slow
def test_the_example_in_python_trains_and_compares(folder):
    done = run("compare.py")
    assert done.returncode == 0, done.stderr
    assert len([*folder.glob("compared/*/*/*/*/result.json")]) == 2
    assert [line.split()[1] for line in done.stdout.splitlines()[-2:]] == ["erm", "fixmatch"]


def test_every_command_of_the_readme_resolves(folder, capsys):
    """Each `ssl-bench METHOD ...` line parses; studies are planned (no data is touched)."""
    lines = re.findall(r"^(?:PYTHONPATH=\. )?ssl-bench (.+?)(?:\s+#.*)?$", README, re.MULTILINE)
    assert len(lines) >= 10
    for line in lines:
        word, *rest = shlex.split(line)
        if word in (*cli.COMMANDS.keys() - {"study"},) or "--help" in rest or "my_study.yaml" in rest:
            continue
        assert cli.run([word, *(word for word in rest if word != "--status"), "--dry-run"]) == 0, line
        assert capsys.readouterr().out.strip(), line


def test_tllibs_checkpoints_and_ours_convert(tmp_path):
    import importlib.util

    import torch

    spec = importlib.util.spec_from_file_location("convert", Path(__file__).parent.parent / "tools" / "convert_checkpoint.py")
    convert = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(convert)
    ours = {"backbone.layer4.0.conv1.weight": torch.ones(1), "bottleneck.0.weight": torch.ones(4, 512), "head.weight": torch.ones(2, 4)}
    torch.save(ours, tmp_path / "ours.pth")
    assert convert.main([str(tmp_path / "ours.pth"), str(tmp_path / "theirs.pth")]) == 0
    theirs = torch.load(tmp_path / "theirs.pth", weights_only=True)
    assert theirs["backbone.fc.weight"].shape == (1000, 512) and theirs.keys() == {*ours, "backbone.fc.weight", "backbone.fc.bias"}
    assert convert.main([str(tmp_path / "gone.pth"), str(tmp_path / "x.pth")]) == 1
