"""Published weights without a network: found where they lie, or one line within seconds that says where to put them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from ssl_bench import timm_weights

NAME, REPOSITORY = "test_vit", "timm/test_vit.r160_in1k"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A hub's cache with nothing in it, and no network: any connection fails at once."""
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr("socket.socket.connect", refuse)
    return tmp_path


def fill(cache: Path, file: str = "model.safetensors") -> dict[str, torch.Tensor]:
    """Weights as the hub's client keeps them."""
    weights = {key: value.contiguous() for key, value in timm.create_model(NAME).state_dict().items()}
    folder = cache / f"models--{REPOSITORY.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(weights, folder / "snapshots" / ("0" * 40) / file)
    return weights


def test_weights_that_were_fetched_once_need_no_network(cache):
    weights = fill(cache)
    network = timm_weights.create(NAME, {}, pretrained=True)
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def test_published_weights_that_are_a_pickle_run_nothing(cache):
    fill(cache, "pytorch_model.bin")  # no safetensors beside it: timm would take this
    (file,) = cache.rglob("pytorch_model.bin")
    bomb = cache / "went off"
    torch.save({"weight": Bomb(str(bomb))}, file)
    assert torch.load(file, weights_only=False) and bomb.is_dir(), "it is one"
    bomb.rmdir()
    with pytest.raises(OSError, match="ImageNet weights of test_vit could not be loaded .*holds posix.mkdir: reading it could"):
        timm_weights.create(NAME, {}, pretrained=True)
    assert not bomb.exists()


def test_published_weights_in_torch_s_own_format_need_no_network(cache):
    weights = fill(cache, "pytorch_model.bin")
    (file,) = cache.rglob("pytorch_model.bin")
    torch.save(weights, file)
    network = timm_weights.create(NAME, {}, pretrained=True)
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    assert not network.pretrained_cfg.get("state_dict"), "kept, it would be copied with the network"


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def test_without_a_network_one_line_says_where_the_file_goes(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError) as caught:
        timm_weights.create(NAME, {}, pretrained=True)
    assert str(caught.value) == (
        f"ImageNet weights of test_vit could not be loaded (HF_HUB_OFFLINE is set): fetch {constants.ENDPOINT}/{REPOSITORY}/resolve/main/"
        "model.safetensors elsewhere and give it as --pretrained-backbone FILE, or copy the folder models--timm--test_vit.r160_in1k "
        f"of a machine that has it into {cache}, or add --scratch for random weights"
    )
    with pytest.raises(OSError) as caught:
        timm_weights.create(NAME, {}, pretrained=True, backbone_file=False)
    assert "--pretrained-backbone" not in str(caught.value) and "copy the folder" in str(caught.value)


def test_weights_from_another_host_have_a_place_of_their_own(cache, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "hub")
    source = timm_weights.source_of("legacy_seresnet18")
    assert source.place == f"put it at {Path('hub/checkpoints/seresnet18-4bb0ce65.pth')}" and source.url.startswith("https://github.com/")


def test_a_host_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    reason = timm_weights.unreachable("http://127.0.0.1:9/x")
    assert reason == "127.0.0.1:9 cannot be reached: Connection refused"


def test_a_refusal_is_an_answer():
    import http.server
    import threading

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:  # 501 to everything
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert timm_weights.unreachable(f"http://127.0.0.1:{server.server_address[1]}/x") is None
        server.shutdown()


def test_what_answers_and_speaks_no_http_is_no_answer(monkeypatch):
    import socketserver
    import threading

    class Rubbish(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(b"please log in\r\n")

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Rubbish) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_address[1]}"
        assert timm_weights.unreachable(f"http://{host}/x") == f"{host} cannot be reached: what answers is no web server (BadStatusLine)"
        server.shutdown()


NO_NETWORK = """
import socket, sys
def refuse(*_, **__):
    print("the network was asked", file=sys.stderr); sys.stderr.flush(); import os; os._exit(9)
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import ssl_bench
from ssl_bench import catalog, cli
assert cli.run(["--help"]) == 0
for word in (["list"], ["list", "datasets"], ["list", "studies"], *(["list", kind] for kind in ("methods", "recipes"))):
    assert cli.run(word) == 0
for name in catalog.method_summaries():
    try:
        cli.run([name, "--help"])
    except SystemExit as left:
        assert not left.code
assert cli.run(["erm", "--dry-run"]) == 0
"""


@pytest.mark.slow
def test_nothing_that_only_looks_asks_the_network():
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK], capture_output=True, encoding="utf-8", timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
