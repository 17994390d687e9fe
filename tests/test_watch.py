"""ssl-bench watch: what it serves, to whom, and what it does not."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from filelock import FileLock
from test_tables import write_run

from ssl_bench import watch


@pytest.fixture
def log(tmp_path):
    write_run(tmp_path / "log")
    return tmp_path / "log"


@pytest.fixture
def port(log, monkeypatch):
    monkeypatch.setattr(watch, "SHARE", 0)
    serving = watch.server([str(log)], "T", None, 0)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield serving.server_address[1]
    serving.shutdown()
    thread.join()
    serving.server_close()


def ask(port: int, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_the_page_and_its_data_are_served(port):
    status, headers, body = ask(port)
    assert status == 200 and b"<title>T</title>" in body and b"connect-src 'self'" in body and b'data-mode="live"' in body
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY" and headers["Cache-Control"] == "no-store"
    status, headers, body = ask(port, "/data.json")
    assert status == 200 and len(json.loads(body)["runs"]) == 1 and "Access-Control-Allow-Origin" not in headers
    assert ask(port, "/data.json", "HEAD")[2] == b"" and ask(port, Host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost", "127.0.0.1:1", "127.0.0.1:{port}.evil.example", ""])
def test_another_name_for_this_machine_is_refused(port, host):
    status, _, body = ask(port, "/data.json", Host=host.format(port=port))
    assert status == 403 and b"runs" not in body


@pytest.mark.parametrize("path", ["/x", "/data.json?x", "/../etc/passwd", "/data.json/", "/log/args.json", "http://127.0.0.1/"])
def test_another_path_is_not_there(port, path):
    assert ask(port, path)[0] == (403 if path.startswith("http") else 404)  # http.client asks there for another host


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW"])
def test_nothing_but_reading_is_allowed(port, method):
    assert ask(port, "/data.json", method)[0] in (405, 501)


def test_what_did_not_change_is_not_sent_again_and_what_did_is(port, log):
    tag = ask(port, "/data.json")[1]["ETag"]
    assert ask(port, "/data.json", If_None_Match=tag)[0] == 304
    folder = write_run(log, seed=1, top1=None, epochs=2, iters_per_epoch=5)
    status, headers, body = ask(port, "/data.json", If_None_Match=tag)
    assert status == 200 and headers["ETag"] != tag and going(body)["progress"]["step"] == 0
    (folder / "metrics.jsonl").write_text('{"step": 5, "kind": "test", "top1": 50.0}\n')
    run = going(ask(port, "/data.json", If_None_Match=headers["ETag"])[2])
    assert run["progress"] == {"step": 5, "total": 10, "top1": 50.0}


def test_a_run_is_running_while_its_lock_is_held_and_no_longer(port, log):
    folder = write_run(log, seed=1, top1=None)
    (folder / ".owner.json").write_text("{}")  # which stays behind where its process is killed
    tag = ask(port, "/data.json")[1]["ETag"]
    with FileLock(folder / ".lock"):
        _, headers, body = ask(port, "/data.json", If_None_Match=tag)
        assert sorted(run["state"] for run in json.loads(body)["runs"]) == ["done", "running"]
        assert ask(port, "/data.json", If_None_Match=headers["ETag"])[0] == 304  # to look at a lock changes nothing
    status, headers, body = ask(port, "/data.json", If_None_Match=headers["ETag"])  # as when its process is killed: no file has changed
    assert status == 200 and going(body)["state"] == "incomplete"
    assert ask(port, "/data.json", If_None_Match=headers["ETag"])[0] == 304


def going(body: bytes) -> dict:
    return next(run for run in json.loads(body)["runs"] if run["state"] == "incomplete")


def test_it_listens_on_this_machine_only(port):
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), timeout=5):
        pass


def test_a_port_in_use_is_one_line(log, port, capsys):
    assert watch.main([str(log), "--port", str(port)]) == 1
    assert capsys.readouterr().err == f"ssl-bench watch: error: port {port} is not free: name another with --port, or 0 for any\n"
    assert watch.main(["nowhere"]) == 2 and watch.main([str(log), "--port", "70000"]) == 2


def test_ctrl_c_leaves_quietly(log):
    command = [sys.executable, "-c", "from ssl_bench.cli import main; main()", "watch", str(log), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    os.kill(process.pid, signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "") and process.returncode == 130
