"""Windows and macOS, as far as it can be checked without them: what they lack, what they refuse, how they start workers."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_bench import record
from ssl_bench.datasets import file_lock

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for folder in ("ssl_bench", "methods", "tools") for path in (REPOSITORY / folder).rglob("*.py"))
LIBRARY = [path for path in SOURCES if path.parts[len(REPOSITORY.parts)] != "tools"]

POSIX_MODULES = set("fcntl grp posix pty pwd resource syslog termios tty".split())
POSIX_MEMBERS = {
    "os": set(
        "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_SYNC P_PID WEXITED WNOHANG WNOWAIT chown chroot fchmod fchown fork forkpty geteuid getgid "
        "getgroups getloadavg getpgid getpgrp getpriority getsid getuid initgroups kill killpg lchown link mkfifo nice openpty posix_fadvise "
        "posix_fallocate pread preadv pwrite pwritev readv sched_getaffinity sched_setaffinity sendfile setpgid setsid setuid statvfs symlink sync "
        "sysconf uname wait wait3 wait4 waitid writev".split()
    ),
    "signal": set(
        "ITIMER_REAL SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 SIGWINCH SIG_BLOCK SIG_SETMASK SIG_UNBLOCK "
        "alarm pause pthread_kill pthread_sigmask setitimer sigpending sigtimedwait sigwait sigwaitinfo".split()
    ),
}
GUARDED = {  # behind a question whether they are there; SLURM's own machines are Linux
    "cache.py": {"getuid"},
    "file_lock.py": {"fcntl"},
    "local.py": {"pthread_sigmask", "SIG_BLOCK", "SIG_UNBLOCK"},
    "placement.py": {"resource"},
    "run_state.py": {"fcntl"},
    "slurm.py": {"SIGUSR2", "SIGKILL", "getuid", "waitid", "P_PID", "WEXITED", "WNOWAIT"},
}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_what_windows_lacks_is_asked_for_only_where_that_is_known():
    found: dict[str, set[str]] = {}
    for path in LIBRARY:
        for node in ast.walk(tree(path)):
            names: set[str] = set()
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = {node.attr} & POSIX_MEMBERS.get(node.value.id, set())
            elif isinstance(node, ast.Import):
                names = {alias.name for alias in node.names} & POSIX_MODULES
            elif isinstance(node, ast.ImportFrom) and not node.level:
                lacking = POSIX_MODULES | {"os", "signal"} if node.module in POSIX_MODULES else POSIX_MEMBERS.get(str(node.module), set())
                names = {alias.name for alias in node.names} & lacking
            if names:
                found.setdefault(path.name, set()).update(names)
    assert found == GUARDED


def test_every_text_is_read_and_written_as_utf8():
    """Windows' own encoding is another in every country, and so is a Linux machine's under LC_ALL=C."""
    bad = []
    for path in SOURCES:
        for node in (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            mode = given.get("mode") or (node.args[1] if name == "open" and isinstance(node.func, ast.Name) and len(node.args) > 1 else None)
            text = name in ("read_text", "write_text") or name == "open" and isinstance(node.func, ast.Name) and not (mode and "b" in ast.unparse(mode))
            if (text or "text" in given and name in ("run", "Popen", "check_output")) and "encoding" not in given:
                bad.append(f"{path.name}:{node.lineno}")
    assert not bad


def test_a_method_started_anew_by_a_worker_does_not_train_again():
    for path in sorted((REPOSITORY / "methods").glob("[a-z]*.py")):
        last = tree(path).body[-1]
        assert isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'", path.name


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("CIFAR10", "CIFAR10"), ("4x", "4x"), ("my.module.Name", "my.module.Name"), ("a b", "a b"), ("étiquettes", "étiquettes"),
        ('what? 1*2 <3>|"4"', "what_ 1_2 _3___4_"), ("half.", "half_"), ("half. .", "half_"), ("..", "_"), ("tab\there", "tab_here"), ("a\\b", "a_b"),
        ("aux", "aux_"), ("CON", "CON_"), ("nul.Name", "nul.Name_"), ("com1", "com1_"), ("auxiliary", "auxiliary"), ("com10", "com10"),
    ],
)  # fmt: skip
def test_folder_names_that_every_system_takes(name, folder):
    assert record.portable(name) == folder


def test_a_run_s_folder_has_such_names(erm_args):
    assert record.run_path("erm", erm_args(labeled_list="lists/aux.txt")).parts[-2] == "aux_"
    assert record.run_path("erm", erm_args(data="my.data:Name")).parts[-3] == "my.data.Name"


@pytest.fixture
def erm_args(tmp_path, monkeypatch):
    from ssl_bench.args import Args

    monkeypatch.chdir(tmp_path)
    Path("lists").mkdir()
    Path("lists/aux.txt").write_text("a/1.png\n", encoding="utf-8")
    return lambda **given: Args(**{"scratch": True, **given})


class Msvcrt:
    """Windows' module, with one byte that may be another process's."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.taken, self.asked = 0, 0

    def locking(self, handle: int, mode: int, count: int) -> None:
        assert (mode, count) == (self.LK_NBLCK, 1) and os.lseek(handle, 0, os.SEEK_CUR) == 0
        self.asked += 1
        if self.asked <= self.taken:
            raise PermissionError(13, "Permission denied")


def test_locks_without_fcntl(tmp_path, monkeypatch, capsys):
    windows = Msvcrt()
    monkeypatch.setattr(file_lock, "fcntl", None)
    monkeypatch.setattr(file_lock, "_BETWEEN_TRIES", 0)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    lock = file_lock.FileLock(tmp_path / "lock")
    assert not file_lock.can_share() and lock.try_exclusive()
    windows.taken = 4
    assert not lock.try_exclusive()
    lock.exclusive("waiting for another")
    assert (windows.asked, capsys.readouterr().out) == (5, "waiting for another\n")
    lock.remove()
    assert not [*tmp_path.iterdir()]


HIDING = f"""
import importlib, multiprocessing.resource_tracker, os, signal, sys
import matplotlib.pyplot, pandas, scipy.stats, sklearn.datasets, tabulate, timm, torch, torchvision, yaml, filelock, safetensors.torch  # theirs to port
import torch.distributed.fsdp, torch.utils.checkpoint
for name in {sorted(POSIX_MODULES - {"posix"})}:
    sys.modules[name] = None
hidden = {{os: {sorted(POSIX_MEMBERS["os"] - {"O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "kill", "sysconf", "uname"})}, signal: {sorted(POSIX_MEMBERS["signal"])}}}
ours = [sys.modules[name] for name in list(sys.modules) if name.startswith("ssl_bench")]
assert not ours, ours
for module, names in hidden.items():
    for name in names:
        vars(module).pop(name, None)
"""


@pytest.mark.slow
def test_everything_is_imported_and_a_run_is_trained_without_what_windows_lacks(tmp_path):
    from conftest import TINY

    modules = sorted(
        ".".join(("ssl_bench", *path.relative_to(REPOSITORY / "ssl_bench").with_suffix("").parts)).removesuffix(".__init__")
        for path in (REPOSITORY / "ssl_bench").rglob("*.py")
    )
    modules += [f"ssl_bench.methods.{path.stem}" for path in sorted((REPOSITORY / "methods").glob("[a-z]*.py"))]
    code = HIDING + f"""
for name in {modules}:
    importlib.import_module(name)
from ssl_bench import cli, environment
environment.commit = lambda: ""  # git that takes long is killed by Python's own Popen, which needs what is hidden
assert cli.run(["erm", *{TINY}, "--log", "runs"]) == 0
assert cli.run(["table", "runs"]) == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=tmp_path, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len([*tmp_path.glob("runs/erm/Digits/4x/*/result.json")]) == 1


def test_a_terminal_without_the_characters_of_a_table_still_gets_it(tmp_path):
    """Windows' consoles, and Linux under LC_ALL=C with UTF-8 mode off."""
    done = subprocess.run(
        [sys.executable, "-c", "from ssl_bench import cli; cli.main()", "table", str(REPOSITORY / "results" / "digits" / "erm")],
        capture_output=True, timeout=120, cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0 and b"96.4 \\xb1 1.1 (5)" in done.stdout, done.stderr


SPAWNED = """
import multiprocessing, sys
from ssl_bench import cli
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "disk"])
def test_workers_that_are_started_anew_decode_the_same_images(tmp_path, cache):
    """As on Windows and macOS, where a worker is a new interpreter that gets everything pickled; fork is Linux's."""
    from conftest import TINY
    from trees import write_tree

    write_tree(tmp_path / "data" / "train", ["cat", "dog"], 6)
    write_tree(tmp_path / "data" / "test", ["cat", "dog"], 2)
    (tmp_path / "run.py").write_text(SPAWNED, encoding="utf-8")
    for log, workers in (("alone", "0"), ("spawned", "2")):
        done = subprocess.run(
            [sys.executable, "run.py", "fixmatch", "data", "-d", "ImageFolder", *TINY, "--scratch", "--num-samples-per-class", "2", "--workers", workers,
             "--cache", cache, "--log", log], capture_output=True, encoding="utf-8", cwd=tmp_path, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    runs = [record.read_jsonl(path) for path in sorted(tmp_path.glob("*/*/*/*/*/metrics.jsonl"))]
    assert len(runs) == 2 and len(runs[0]) > 3
    kept = [[{key: value for key, value in row.items() if "loss" in key or key in ("kind", "step", "top1")} for row in rows] for rows in runs]
    assert kept[0] == kept[1]
