"""What a run was made with: versions of packages, the machine, and the commit of this code."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """Versions, machine and commit, for the record."""
    names = ("ssl-bench", "torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn")
    packages = {name: version for name in names if (version := _version(name))}
    return dict(packages=packages, python=platform.python_version(), platform=platform.platform(), commit=commit())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """Commit of the source tree this package runs from ('+' when changed since), '' outside a git checkout."""
    folder = Path(__file__).resolve().parent
    answers = []
    for command in (["rev-parse", "--show-toplevel", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        answers.append(done.stdout.strip() if done.returncode == 0 else "")
    top, _, revision = answers[0].partition("\n")
    if not revision or Path(top) != folder.parent:  # a wheel inside somebody else's repository
        return ""
    return revision + ("+" if answers[1] else "")
