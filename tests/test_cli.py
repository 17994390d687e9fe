"""The ssl-bench command: what it dispatches, what it prints, and that help needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ssl_bench import catalog, cli, inventory

RESULTS = str(Path(__file__).parent.parent / "results" / "digits")


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.run(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",)])
def test_help_lists_commands_and_methods(capsys, argv):
    code, out, _ = run(capsys, *argv)
    assert code == 0
    assert all(f"  {name} " in out for name in [*cli.COMMANDS, *catalog.method_names()])


@pytest.mark.parametrize("word", ["--help", "list", "--version"])
def test_help_and_list_do_not_import_torch(word):
    code = f"import sys; from ssl_bench import cli; cli.run([{word!r}]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout, done.stderr


def test_list_is_inventorys(capsys):
    code, out, _ = run(capsys, "list", "methods")
    assert code == 0 and out == inventory.text(["methods"]) + "\n"
    assert run(capsys, "list", "metods")[0] == 2


@pytest.mark.parametrize("words", [["list"], ["list", "recipes"], ["--help"]])
def test_a_reader_that_leaves_early_is_no_traceback(words):
    """As with `| head`: of a long text, met while printing; of a short one, only when the process ends."""
    code = f"import sys; from ssl_bench import cli; sys.stdin.readline(); cli.main({words!r})"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.stderr.read() == "" and process.wait() == 141
    process.stderr.close()


@pytest.mark.parametrize(("word", "near"), [("fixmtch", "fixmatch"), ("tabel", "table"), ("fix_match", "fixmatch")])
def test_an_unknown_word_is_one_line_with_the_nearest(capsys, word, near):
    code, out, err = run(capsys, word)
    assert code == 2 and not out and err.count("\n") == 1 and near in err


def test_a_methods_help_shows_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run(["fixmatch", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "--threshold FLOAT confidence above which (strictly) a prediction becomes a label [>= 0 and <= 1] [default 0.95]" in out
    assert "arXiv:2001.07685" in out


def test_a_script_runs_by_path_from_any_folder(tmp_path):
    script = Path(__file__).parent.parent / "methods" / "fixmatch.py"
    done = subprocess.run([sys.executable, str(script), "--treshold", "1"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.strip() == "fixmatch: error: unknown flag '--treshold'; did you mean --threshold? (--help lists all)"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["table", RESULTS, "--runs-csv", ""]])
def test_a_command_whose_reader_left_says_so_by_its_code(words, tmp_path):
    code = f"from ssl_bench import cli; cli.main({words!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.wait() == 141 and not process.stderr.read()
    process.stderr.close()
