"""What a run was made with: versions that are installed, and the commit of the code, '+' when it was changed since."""

from __future__ import annotations

import subprocess
from importlib import metadata

import torch

from ssl_bench import environment


def git(folder, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x", *words], check=True, capture_output=True)


def test_versions_are_those_that_run():
    assert environment.environment()["packages"]["torch"] == torch.__version__.partition("+")[0]


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    def without_timm(name: str) -> str:
        if name == "timm":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", without_timm)
    packages = environment.environment()["packages"]
    assert "timm" not in packages and packages["pillow"] == "1.0"


def test_the_commit_is_of_this_code_and_says_when_it_was_changed(tmp_path, monkeypatch):
    package = tmp_path / "ssl_bench"
    package.mkdir()
    (package / "environment.py").write_text("")
    monkeypatch.setattr(environment, "__file__", str(package / "environment.py"))
    assert environment.commit() == ""
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    revision = environment.commit()
    assert len(revision) == 12
    (package / "environment.py").write_text("changed = True")
    assert environment.commit() == revision + "+"
    monkeypatch.setattr(environment, "__file__", str(package / "deeper" / "environment.py"))  # somebody else's repository
    assert environment.commit() == ""
