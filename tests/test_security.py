"""What comes from files and names is data: it is never run, never leaves its place, and nothing that shows it obeys it."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import shutil
import socket
import subprocess
import tarfile
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from test_tables import write_run
from test_watch import ask, log, port  # noqa: F401 - fixtures

from ssl_bench import report, tables
from ssl_bench.datasets import archive
from ssl_bench.datasets.archive import BadArchive, unpack
from ssl_bench.datasets.mnist import read_idx
from ssl_bench.layouts import LAYOUTS, Cell, Table, spreadsheet_text
from ssl_bench.predict import Prediction, write_csv

REPOSITORY = Path(__file__).parent.parent
PRODUCT = [path for folder in ("ssl_bench", "methods", "tools", "recipes") for path in (REPOSITORY / folder).rglob("*.py")]
EVIL = [
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "' onmouseover='alert(1)", "<!--", "]]>",
    "javascript:alert(1)", "{{script}}", "${alert(1)}", "\u2028alert(1)\u2029", "<svg/onload=alert(1)>", "&lt;b&gt;", "\x00\x1b[31m", "\u202efdp.exe",
]  # fmt: skip


# --- source ---------------------------------------------------------------------------------------------------------


def offences(text: str) -> list[str]:
    """Calls by which a file's content could be run, or a shell started."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name, keys = ast.unparse(node.func), {key.arg: ast.unparse(key.value) for key in node.keywords}
        if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.hub.load", "joblib.load", "pd.read_pickle", "marshal.loads", "shelve.open"):
            found.append(name)
        if name.split(".")[-1] in ("loads", "load", "Unpickler") and name.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle"):
            found.append(name)
        if name == "torch.load" and keys.get("weights_only") != "True" or name.endswith("np.load") and keys.get("allow_pickle") != "False":
            found.append(name)
        if name.startswith("yaml.") and name.split(".")[1] in ("load", "load_all", "unsafe_load", "full_load"):
            found.append(name)
        if keys.get("shell", "False") != "False" or name in ("tempfile.mktemp",):
            found.append(f"{name} in a shell")
        if name.endswith((".extractall", ".extract")) and "filter" not in keys and "archive" not in name:
            found.append(name)
    return found


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_nothing_in_the_source_runs_what_it_reads(path):
    assert not offences(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", [
    "pickle.load(f)", "pickle.Unpickler(f)", "np.load(f)", "np.load(f, allow_pickle=True)", "torch.load(f)", "torch.load(f, weights_only=False)", "eval(x)",
    "exec(x)", "yaml.load(f)", "yaml.load(f, Loader=yaml.FullLoader)", "subprocess.run(x, shell=True)", "os.system(x)", "tarfile.open(f).extractall(p)",
])  # fmt: skip
def test_the_search_finds_what_it_looks_for(text):
    assert offences(text)


# --- archives -------------------------------------------------------------------------------------------------------


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, link
    return made


def tar_gz(path: Path, header: tarfile.TarInfo, zeros: int = 0) -> Path:
    with gzip.open(path, "wb", compresslevel=9) as packed:
        packed.write(header.tobuf())
        for _ in range(zeros):
            packed.write(bytes(2**20))
    return path


@pytest.mark.parametrize(("kind", "link"), [
    (tarfile.SYMTYPE, "/etc"), (tarfile.SYMTYPE, "../../x"), (tarfile.SYMTYPE, "a/../../x"), (tarfile.SYMTYPE, "a/../y"), (tarfile.SYMTYPE, "..//etc"), (tarfile.LNKTYPE, "../x"), (tarfile.LNKTYPE, "/etc/passwd"),
    (tarfile.CHRTYPE, ""), (tarfile.BLKTYPE, ""), (tarfile.FIFOTYPE, ""),
])  # fmt: skip
def test_no_link_that_leads_out_and_no_device_comes_out_of_a_tar(tmp_path, kind, link):
    (tmp_path / "out").mkdir()
    with pytest.raises(BadArchive, match="a.tar.gz cannot be unpacked"):
        unpack(str(tar_gz(tmp_path / "a.tar.gz", member("set/x", kind, link=link), 1)), str(tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


def test_a_link_inside_is_kept(tmp_path):
    links = {"set/link": "real", "set/a/b/up": "../../real", "set/lists/all": "../a/b"}
    (tmp_path / "out").mkdir()
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as packed:
        packed.addfile(member("set/real", size=2), io.BytesIO(b"hi"))
        for name, target in links.items():
            packed.addfile(member(name, tarfile.SYMTYPE, link=target))
    unpack(str(tmp_path / "a.tgz"), str(tmp_path / "out"))
    assert all((tmp_path / "out" / name).read_bytes() == b"hi" for name in ("set/link", "set/a/b/up", "set/lists/all/up"))


@pytest.mark.parametrize("last", [
    member("p/q/l/a", tarfile.SYMTYPE, link="../../../x"),  # it would lie in top/, which is one deep
    member("p/./q/l/../a", tarfile.SYMTYPE, link="../../../x"),
    member("b", tarfile.LNKTYPE, link="p/q/up"),  # of the link itself, at another depth
    member("b", tarfile.LNKTYPE, link="p/q/l/f"),
])  # fmt: skip
def test_no_link_leads_out_by_way_of_another(tmp_path, last):
    (tmp_path / "out").mkdir()
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        packed.addfile(member("top/f"))
        for name, target in (("p/q/l", "../../top"), ("p/q/up", "../../x")):
            packed.addfile(member(name, tarfile.SYMTYPE, link=target))
        packed.addfile(last)
    with pytest.raises(BadArchive, match="its link '.*' leads outside of it"):
        unpack(str(tmp_path / "a.tar"), str(tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", ["member", "header", "zip"])
def test_archive_bombs_are_refused_before_they_fill_disk_or_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archive, "FREE", 2**22)
    (tmp_path / "out").mkdir()
    if kind == "zip":
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("zeros", bytes(2**25))
    else:
        size, type_ = (2**33, tarfile.REGTYPE) if kind == "member" else (2**30, tarfile.XHDTYPE)
        path = tar_gz(tmp_path / "a.tgz", member("zeros", type_, size), 24)
    with pytest.raises(BadArchive, match="100 times its own size"):
        unpack(str(path), str(tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


def test_more_than_the_disk_holds_is_said_before(tmp_path, monkeypatch):
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    (tmp_path / "out").mkdir()
    for name in ("a.zip", "a.tar"):
        if name == "a.zip":
            with zipfile.ZipFile(tmp_path / name, "w") as packed:
                packed.writestr("a", b"abc")
        else:
            with tarfile.open(tmp_path / name, "w") as packed:
                packed.addfile(member("a", size=3), io.BytesIO(b"abc"))
        with pytest.raises(OSError, match="GiB free"):
            unpack(str(tmp_path / name), str(tmp_path / "out"))


def test_a_gzip_bomb_in_place_of_mnist_is_refused(tmp_path):
    with gzip.open(tmp_path / "a.gz", "wb") as packed:
        for _ in range(18):
            packed.write(bytes(2**24))
    with pytest.raises(ValueError, match="no set of small images"):
        read_idx(str(tmp_path / "a.gz"))


# --- escaping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\n=1", "＝1+1", "＋1", "－1", "＠x"])
def test_no_cell_of_text_is_a_formula_and_numbers_stay_numbers(tmp_path, name):
    assert spreadsheet_text(name) == "'" + name and spreadsheet_text("plain = 1") == "plain = 1"
    rows = [Prediction(name, (0,), (0.25,))]
    write_csv(tmp_path / "p.csv", iter(rows), [name], 1)
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        assert [*csv.reader(file)][1] == ["'" + name, "'" + name, "0", "0.25"]


@pytest.mark.parametrize("format", [*LAYOUTS])
def test_no_control_character_of_a_name_reaches_a_terminal(format):
    """Escapes of a terminal, and marks that turn the direction of writing around."""
    text = LAYOUTS[format](Table(["Method\x1b]0;x\x07", "a\u202eb"], [[Cell("m\x1b[31m\x00"), Cell("\x9b2J")]], "cap\x1b[2J", "foot\u2066"))
    assert not [c for c in text if not c.isprintable() and c != "\n"]


def test_a_carriage_return_in_a_name_begins_no_row(tmp_path):
    """csv.writer does not quote it, and a spreadsheet goes on in the next row, with a formula."""
    write_csv(tmp_path / "p.csv", iter([Prediction("a\r=1+1", (0,), (0.25,))]), ["b\r=1"], 1)
    assert (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()[1:] == ["a\\r=1+1,b\\r=1,0,0.25"]


def test_markdown_cells_hold_no_pipe_link_or_tag(tmp_path):
    text = LAYOUTS["github"](Table(["M", "v"], [[Cell("a|b\n<b>`x`*y*"), Cell("1")]]))
    assert r"a\|b \<b>\`x\`\*y\*" in text and len(text.strip().splitlines()) == 3


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_no_name_is_a_command_of_latex(tmp_path):
    names = [r"\input{/etc/passwd}", r"\write18{touch x}", "$\\end{table}$", "%", "_^~{}", "a & b", "#1", "^^M", r"\\[9cm]", "]", "\x1b[31m", "``''--", "|<>"]
    table = Table(["Method", "x"], [[Cell(name), Cell(name, len(name))] for name in names], " ".join(names), " ".join(names))
    page = "\n".join([r"\documentclass{article}\usepackage{booktabs}\begin{document}", LAYOUTS["latex"](table), r"\end{document}"])
    (tmp_path / "a.tex").write_text(page, encoding="utf-8")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-1500:]
    assert "/etc/passwd" not in done.stdout and not (tmp_path / "x").exists()


def evil_log(folder: Path) -> Path:
    """Runs named by all that is evil: data, network, classes, metrics, warnings, failures."""
    for seed, name in enumerate(EVIL):
        run = write_run(folder, data=name.replace("/", "∕").replace("\0", ""), arch=name, note=name, seed=seed)
        (run / "classes.json").write_text(json.dumps([name, "b"]))
        (run / "metrics.jsonl").write_text(json.dumps({"step": 5, "kind": "warning", "text": name}) + "\n" + json.dumps({"step": 5, "kind": "test", "top1": 1.0, name: 3}))
        np.savez(run / "predictions.npz", target=np.array([0, 1], np.int32), prediction=np.array([0, 0], np.int32), confidence=np.array([0.5, 0.9], np.float32))
    return folder


def elements(content: str) -> list[tuple[str, tuple]]:
    """Tags with their attributes, but for the hashes and what is in the page."""
    found = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list) -> None:
            found.append((tag, tuple(attrs)))

        def handle_comment(self, data: str) -> None:
            found.append(("comment", (data,)))

    Parser().feed(content)
    return found


def test_no_name_makes_an_element_of_the_page(tmp_path):
    write_run(tmp_path / "plain")
    plain = elements(report.page(report.page_data([tmp_path / "plain"], figures=False), "T").decode())
    data = report.page_data([evil_log(tmp_path / "log")], figures=False)
    for title in EVIL:
        content = report.page(data, title).decode()
        assert elements(content) == plain and "\u2028" not in content.partition('id="data"')[2]


@pytest.mark.slow
def test_a_browser_runs_nothing_of_what_names_say(tmp_path):
    """Every page of every run, in Chromium: no dialog, no console message, no request, no element that a name made."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    data = report.page_data([evil_log(tmp_path / "log")], figures=False)
    (tmp_path / "page.html").write_bytes(report.page(data, "".join(EVIL)))
    said: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:", "about:")) else None)
        page.goto((tmp_path / "page.html").as_uri())
        for run in data["runs"]:
            page.evaluate("id => { location.hash = `run/${id}`; }", run["id"])
            page.wait_for_timeout(50)
            made = page.evaluate("[...document.querySelectorAll('[onerror],[onload],[onmouseover],img:not([src^=\"data:\"]),a[href^=javascript]')].map(e => e.outerHTML)")
            assert not made, made
            assert page.locator("script").count() == 2
        browser.close()
    assert not said, said


@pytest.mark.slow
def test_a_figure_is_a_picture_whatever_its_names_are():
    """A control character, which XML has none of, would leave an SVG that no browser draws."""
    from xml.etree import ElementTree

    from ssl_bench.drawing import canvas, marks, render, settings

    names = [f"{name} $x_" for name in EVIL]
    with settings():
        figure, _ = canvas(1, "page", " ".join(names), marks(names))
        tree = ElementTree.fromstring(render(figure, "svg"))
    assert {element.tag.rpartition("}")[2] for element in tree.iter()} <= {"svg", "g", "path", "text", "defs", "style", "clipPath", "rect", "use", "metadata", "RDF", "Work", "type", "format", "creator", "Agent", "title", "tspan", "line", "polygon", "date"}


# --- watch ----------------------------------------------------------------------------------------------------------


def raw(number: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", number), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while block := connection.recv(65536):
            answer += block
    return answer


@pytest.mark.parametrize("path", [
    "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd", "/..\\..\\x", "/%00", "/./args.json", "//etc/passwd", "/data.json%00", "/data.json;x", "/static/../data.json",
])  # fmt: skip
def test_no_path_leads_to_a_file(port, path):  # noqa: F811
    status, headers, body = ask(port, path)
    assert status == 404 and b"root:" not in body and headers["Content-Security-Policy"]


@pytest.mark.parametrize("request_", [
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00", b"GET /data.json\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n", b"\r\n" * 50, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
])  # fmt: skip
def test_no_odd_request_gets_data_or_a_page_of_the_servers_own(port, request_):  # noqa: F811
    answer = raw(port, request_)
    assert b" 200 " not in answer[:40] and b"<html" not in answer.lower() and b"runs" not in answer
    assert ask(port, "/data.json")[0] == 200  # it goes on


def test_what_follows_a_request_with_a_body_is_no_request(port):  # noqa: F811
    host = f"Host: 127.0.0.1:{port}\r\n".encode()
    inner = b"GET /data.json HTTP/1.1\r\n" + host + b"\r\n"
    for kind in (f"Content-Length: {len(inner)}\r\n".encode(), b"Transfer-Encoding: chunked\r\n"):
        answer = raw(port, b"GET / HTTP/1.1\r\n" + host + kind + b"\r\n" + inner)
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1 and b'"runs"' not in answer


def test_every_answer_says_what_a_browser_may_do_with_it(port):  # noqa: F811
    for path, method in (("/", "GET"), ("/data.json", "GET"), ("/x", "GET"), ("/", "POST"), ("/", "BREW")):
        _, headers, _ = ask(port, path, method)
        for name in ("X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Content-Security-Policy", "Cross-Origin-Resource-Policy"):
            assert headers[name], (path, method, name)
        assert "Access-Control-Allow-Origin" not in headers and "Python" not in headers.get("Server", "")


def test_csv_of_a_table_keeps_numbers_as_numbers(tmp_path):
    write_run(tmp_path, "m", data="=1+1", top1=(12.5,))
    assert tables.main([str(tmp_path), "--format", "csv", "--out", str(tmp_path / "t.csv")]) == 0
    (row,) = csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text()))
    assert "'=1+1" in row.values() and any(value.replace(".", "").isdigit() and float(value) == 12.5 for value in row.values())
