"""Checkpoints and the other binary files of a run: truncated, with turned bits, of something else, bombs. Nothing in them is ever run."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import fuzzing
import numpy as np
import pytest
import torch
from conftest import TINY, only_run
from fuzzing import SIZES, ask, fuzz, no_litter, refused_kindly
from hypothesis import strategies as st

from ssl_bench import catalog, launch
from ssl_bench.curves import read_predictions
from ssl_bench.pools import _reread_or_write
from ssl_bench.weights import read_tensors, read_weights

ERM = [*TINY, "--num-samples-per-class", "4", "--seed", "0"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of erm on the digits, with photographs to predict beside it."""
    log = tmp_path_factory.mktemp("fuzz") / "log"
    assert launch.run_command(catalog.load_method("erm"), [*ERM, "--log", str(log)]) == 0
    return only_run(log)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """The first command of a word imports what it needs, which takes its time on a busy machine."""
    monkeypatch.setattr(fuzzing, "PATIENCE", 90)


@pytest.fixture
def run(finished, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    return Path(shutil.copytree(finished.parents[3], log)) / finished.relative_to(finished.parents[3])


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self):
        return os.mkdir, (str(self.crater),)


def bombs(crater: Path) -> dict[str, bytes]:
    """The same pickle in every wrapping that a reader may look into."""
    made = {"pickle": pickle.dumps({"head.weight": Bomb(crater)}, 2)}
    for name, zipped in (("torch", True), ("legacy", False)):
        stream = io.BytesIO()
        torch.save({"head.weight": Bomb(crater)}, stream, _use_new_zipfile_serialization=zipped)
        made[name] = stream.getvalue()
    stream = io.BytesIO()
    np.savez(stream, **{name: np.array([Bomb(crater)], object) for name in ("target", "prediction", "confidence", "labeled", "unlabeled")})
    made["npz"] = stream.getvalue()
    return made


def doors(run: Path) -> dict[str, tuple[Path, list[str]]]:
    """Door -> the file that is read there, and a command that reads it."""
    weights, log = run / "checkpoints" / "latest.pth", str(run.parents[3])
    state = max((run / "checkpoints").glob("state-*.pt"))
    folder = str(run)
    return {
        "predict": (weights, ["predict", folder, "a.png"]),
        "evaluate": (weights, ["evaluate", folder]),
        "export": (weights, ["export", folder, "--format", "safetensors", "--out", "x.safetensors"]),
        "resume": (weights, ["erm", *ERM, "--log", log, "--phase", "test", "--resume", str(weights)]),
        "from": (weights, ["semi_vit", *ERM[:-4], "--log", "new", "--stages", "finetune,semi", "--from", str(weights)]),
        "backbone": (weights, ["erm", *ERM, "--log", "new", "--pretrained-backbone", str(weights)]),
        "continue": (state, ["erm", *ERM, "--log", log]),
        "split": (run / "split.npz", ["erm", *ERM, "--log", log]),
        "predictions": (run / "predictions.npz", ["report", log, "--out", "r.html"]),
        "plot": (run / "predictions.npz", ["plot", "calibration", log, "--out", "f.png"]),
    }  # fmt: skip


@pytest.mark.parametrize("door", [
    "predict", "continue", "split", "plot", *(pytest.param(door, marks=pytest.mark.slow) for door in ("evaluate", "export", "resume", "from", "backbone", "predictions")),
])  # fmt: skip
def test_no_bomb_goes_off_at_any_door(run, tmp_path, door):
    from PIL import Image

    Image.new("RGB", (8, 8)).save("a.png")
    if door in ("continue", "split"):
        (run / "result.json").unlink()
    path, command = doors(run)[door]
    crater = tmp_path / "crater"
    for kind, content in bombs(crater).items():
        for file in (run / "checkpoints").glob("state-*.pt") if door == "continue" else [path]:
            file.write_bytes(content)
        answer = ask(command)
        assert not crater.exists(), (door, kind)
        if door in ("predictions", "plot"):  # a run without them is shown without them
            assert not answer.crash and path.name in answer.err, answer
        else:
            assert refused_kindly(answer), (door, kind, answer)
        no_litter(tmp_path)
    pickle.loads(bombs(crater)["pickle"])  # noqa: S301 - the bomb is live
    assert crater.exists()


@pytest.mark.parametrize("examples", SIZES)
def test_no_turned_bit_of_a_checkpoint_goes_unseen(tmp_path, examples):
    tree = {"head.weight": torch.randn(20, 30, generator=torch.Generator().manual_seed(0)), "step": 7, "n": {"a": [1.5, "x", None]}}
    torch.save(tree, tmp_path / "good.pth")
    good = (tmp_path / "good.pth").read_bytes()

    def damaged(cut: float, flips: list[tuple[float, int]]) -> bool:
        content = bytearray(good)
        for where, bit in flips:
            content[int(where * len(content))] ^= 1 << bit
        path = tmp_path / "bad.pth"
        path.write_bytes(content[: round(cut * len(content))])
        try:
            found = read_tensors(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return True
        assert torch.equal(found["head.weight"], tree["head.weight"]) and found["step"] == 7 and found["n"] == tree["n"]
        return False

    flips = st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 7)), max_size=2)
    fuzz(examples * 4, damaged, st.one_of(st.just(1.0), st.floats(0, 1)), flips)


def test_a_file_marked_as_a_folder_is_refused(tmp_path):
    """torch reads nothing from it, and leaves the tensor as memory happened to be."""
    torch.save({"a": torch.ones(500)}, tmp_path / "a.pth")
    content = bytearray((tmp_path / "a.pth").read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"a/data/0"))
    content[entry + 38] |= 0x10
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match="marked as a folder"):
        read_tensors(tmp_path / "a.pth")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    torch.save({"a": torch.zeros(20_000_000)}, tmp_path / "big.pth")
    with zipfile.ZipFile(tmp_path / "big.pth") as big, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb:
        for name in big.namelist():
            bomb.writestr(name, big.read(name))
    with pytest.raises(ValueError, match="bomb.pth .* would unpack to 80,000"):
        read_tensors(tmp_path / "bomb.pth")


@pytest.mark.filterwarnings("ignore")  # torch's, of kinds of tensors that are no product yet
@pytest.mark.parametrize("kind", ["sparse", "meta", "nested", "complex", "quantised"])
def test_a_tensor_without_plain_numbers_is_refused_by_name(tmp_path, kind):
    odd = {
        "sparse": lambda: torch.eye(3).to_sparse(), "meta": lambda: torch.empty(3, device="meta"), "complex": lambda: torch.zeros(3, dtype=torch.complex64),
        "nested": lambda: torch.nested.nested_tensor([torch.zeros(2)]), "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    }[kind]()  # fmt: skip
    torch.save({"head.weight": odd}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="odd.pth .*(head.weight in a form|refused|no checkpoint)"):
        read_weights(tmp_path / "odd.pth")


@pytest.mark.parametrize("head", [b"", b"\xff" * 8, struct.pack("<Q", 2**62), struct.pack("<Q", 10**9) + b"{}", struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 4) + b"[[[["])
def test_absurd_safetensors_are_one_line(tmp_path, head):
    (tmp_path / "a.safetensors").write_bytes(head)
    with pytest.raises(ValueError, match="a.safetensors"):
        read_weights(tmp_path / "a.safetensors")
    answer = ask(["predict", str(tmp_path / "a.safetensors"), __file__])
    assert refused_kindly(answer, "a.safetensors")


@pytest.mark.parametrize("examples", SIZES)
def test_damaged_npz_files_of_a_run_are_one_line(finished, tmp_path, examples):
    positions = np.arange(5), np.arange(5, 50), np.arange(0)
    readers = {
        "predictions.npz": lambda: read_predictions(tmp_path),
        "split.npz": lambda: _reread_or_write(tmp_path / "split.npz", positions, 50, True),
    }
    np.savez(tmp_path / "split.npz", images=50, **dict(zip(("labeled", "unlabeled", "val"), positions, strict=True)))
    good = {"split.npz": (tmp_path / "split.npz").read_bytes(), "predictions.npz": (finished / "predictions.npz").read_bytes()}

    def damaged(name: str, cut: float, flips: list[tuple[float, int]]) -> bool:
        content = bytearray(good[name])
        for where, bit in flips:
            content[int(where * len(content))] ^= 1 << bit
        (tmp_path / name).write_bytes(content[: round(cut * len(content))])
        try:
            readers[name]()
        except ValueError as error:
            assert name in str(error) and "\n" not in str(error)
            return True
        return False

    flips = st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 7)), max_size=3)
    fuzz(examples * 4, damaged, st.sampled_from([*good]), st.one_of(st.just(1.0), st.floats(0, 1)), flips)


def test_npz_bombs_and_absurd_shapes_are_refused(tmp_path):
    header = "{'descr': '<i8', 'fortran_order': False, 'shape': (10000000000000,), }".ljust(117) + "\n"
    giant = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode()
    zeros = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.replace("10000000000000", "4000000       ").encode() + bytes(32_000_000)
    for array in (giant, zeros):
        with zipfile.ZipFile(tmp_path / "predictions.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
            for name in ("target", "prediction", "confidence"):
                packed.writestr(f"{name}.npy", array)
        with pytest.raises(ValueError, match="predictions.npz cannot be read"):
            read_predictions(tmp_path)


def test_a_state_with_a_turned_bit_falls_back_and_two_are_one_line(run):
    (run / "result.json").unlink()
    states = sorted((run / "checkpoints").glob("state-*.pt"), reverse=True)
    assert len(states) == 2
    command = doors(run)["continue"][1]
    turn(states[0])
    answer = ask(command)
    assert answer.code == 0 and "falling back" in answer.err and states[0].name in answer.err, answer
    (run / "result.json").unlink()
    for state in (run / "checkpoints").glob("state-*.pt"):
        turn(state)
    assert refused_kindly(ask(command), "remove that folder to start the run anew")


def turn(path: Path) -> None:
    """One bit in the middle of the largest tensor."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as parts:
        largest = max(parts.infolist(), key=lambda part: part.file_size)
    content[largest.header_offset + 200 + largest.file_size // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("change", ["list", "no optimizers", "other network", "no step", "weights"])
def test_a_state_of_something_else_is_one_line(run, change):
    (run / "result.json").unlink()
    states = [*(run / "checkpoints").glob("state-*.pt")]
    state = torch.load(max(states), weights_only=True)
    if change == "list":
        state = [1, 2]
    elif change == "weights":
        state = state["method"]
    elif change == "other network":
        state["method"] = {name: value[..., :1] for name, value in state["method"].items() if value.ndim}
    else:
        del state[change.removeprefix("no ")]
    for path in states:
        torch.save(state, path)
    assert refused_kindly(ask(doors(run)["continue"][1]), "--log")


def test_weights_of_another_data_set_are_named(run, tmp_path):
    weights = torch.load(run / "checkpoints" / "latest.pth", weights_only=True)
    weights["head.weight"], weights["head.bias"] = weights["head.weight"][:7], weights["head.bias"][:7]
    torch.save(weights, run / "checkpoints" / "latest.pth")
    assert refused_kindly(ask(doors(run)["resume"][1]), "has a head of 7 classes")


def test_a_bomb_in_a_cache_or_an_index_is_never_unpickled(tmp_path):
    from ssl_bench.datasets.pixel_file import BadPixelFile, PixelFile

    for content in bombs(tmp_path / "crater").values():
        (tmp_path / "x.pixels").write_bytes(content + bytes(200))
        with pytest.raises(BadPixelFile):
            PixelFile(tmp_path / "x.pixels", 256, bytes(32))
    assert not (tmp_path / "crater").exists()


@pytest.mark.parametrize("file", ["data_batch_1", "data_batch_5", "test_batch", "batches.meta"])
def test_cifar_is_unpickled_only_after_its_checksum(tmp_path, monkeypatch, file):
    """torchvision unpickles what it reads: each file is compared with its published md5 before, names included."""
    from test_zoo import error_of, make_cifar

    make_cifar(tmp_path, "CIFAR10", monkeypatch)
    (tmp_path / "cifar-10-batches-py" / file).write_bytes(pickle.dumps(Bomb(tmp_path / "crater")))
    assert "missing or damaged" in str(error_of("CIFAR10", tmp_path, download=False))
    assert not (tmp_path / "crater").exists()


@pytest.mark.parametrize("word", ["study", "recipe"])
def test_a_bomb_in_a_yaml_file_is_never_made(tmp_path, word):
    (tmp_path / "a.yaml").write_text(f"a: !!python/object/apply:os.mkdir [{json.dumps(str(tmp_path / 'crater'))}]\n")
    command = ["study", str(tmp_path / "a.yaml")] if word == "study" else ["erm", "--recipe", str(tmp_path / "a.yaml"), "--dry-run"]
    assert refused_kindly(ask(command)) and not (tmp_path / "crater").exists()
