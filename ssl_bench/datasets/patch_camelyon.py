"""PatchCamelyon (Veeling et al., 2018): is there tumour in the middle of a 96x96 patch of a lymph node? From HDF5 files."""
from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_bench.atomic import write_with
from ssl_bench.datasets.cache import usual_folders
from ssl_bench.datasets.download import Remote, read_or_fetch
from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.datasets.mapped_rows import MappedRows
from ssl_bench.datasets.pixel_file import CachedRows
from ssl_bench.datasets.transfer import mismatch

if TYPE_CHECKING:
    import h5py

SIZE = 96
CLASSES = ("no tumour", "tumour")
URL = "https://zenodo.org/records/2546921/files"
_SLAB = 1500  # images copied at once
_FOLDERS = ("pcam", "")  # torchvision's, and the root itself


def load(root: str, download: bool) -> DataSet:
    """262,144 / 32,768 images; the 32,768 validation images are not used.

    Nothing is decoded and nothing kept in memory: the pixels are mapped out of the HDF5 files (8.2 GB on the disk), row by
    row, by the workers. Should a file hold its images in pieces, they are copied once, as they are, to a file beside the data or
    in the user's cache folder.

    In `root` or `root/pcam` lie the four `.h5` files of train and test, or these with `.gz`, which are unpacked beside
    themselves when their checksum is right, and then needed no longer.

    Raises:
        FileNotFoundError: files are missing or damaged and `download` is off.
        OSError: the download failed, or there is no room for the copy.
        ValueError: h5py is missing, or a file holds something else.
    """
    files = [file for part in ("train", "test") for file in _files(part)]
    names = ", ".join(file.makes for file in files)
    by_hand = f"put {names} (or these with .gz, from {URL}) into {os.path.join(root, 'pcam')}"
    return read_or_fetch("PatchCamelyon", root, _read, files, by_hand, download)


def _files(part: str) -> list[Remote]:
    """The images and the labels, packed with gzip; names and checksums are torchvision's."""
    from torchvision.datasets import PCAM

    files = [PCAM._FILES[part][kind] for kind in ("images", "targets")]
    return [Remote(f"{name}.gz", (f"{URL}/{name}.gz",), md5, "pcam", makes=name) for name, _, md5 in files]


def _unpack(path: Path) -> None:
    with gzip.open(f"{path}.gz") as packed:
        write_with(path, lambda file: shutil.copyfileobj(packed, file, 2**20))


def _read(root: str) -> DataSet:
    train, test = (_part(root, *_files(part)) for part in ("train", "test"))
    return DataSet("PatchCamelyon", CLASSES, train, test)


def _part(root: str, images: Remote, labels: Remote) -> Images:
    with _opened(root, labels) as file:
        targets = _dataset(file, "y", (1, 1, 1))[:].reshape(-1).astype(np.int64)
    with _opened(root, images) as file:
        rows = _mapped(_dataset(file, "x", (SIZE, SIZE, 3)), root)
    return Images(targets, cached=CachedRows(rows, np.arange(len(rows))))


def _opened(root: str, file: Remote) -> h5py.File:
    """The file that `file` packs, unpacked first where that is missing or damaged."""
    try:
        import h5py
    except ImportError as error:
        raise ValueError("PatchCamelyon is stored as HDF5 files, which h5py reads: pip install h5py") from error
    absent = FileNotFoundError(f"{file.makes} is missing")
    paths = [Path(root, folder, file.makes) for folder in _FOLDERS]
    for path in filter(Path.is_file, paths):
        try:
            return h5py.File(path, "r")
        except OSError as error:
            absent = FileNotFoundError(f"{path} is damaged: {' '.join(str(error).split())}")
    for path in paths:
        if os.path.isfile(f"{path}.gz") and mismatch(f"{path}.gz", file.checksum) is None:
            _unpack(path)
            return h5py.File(path, "r")
    raise absent


def _dataset(file: h5py.File, key: str, shape: tuple[int, ...]) -> h5py.Dataset:
    found = file.get(key)
    if found is None or found.shape[1:] != shape or found.dtype != np.uint8:
        what = "nothing" if found is None else f"{found.dtype} {found.shape}"
        expected = f"uint8 (N, {', '.join(map(str, shape))})"
        raise ValueError(f"{file.filename} holds {what} as {key!r}, expected {expected}: fetch it again")
    return found


def _mapped(images: h5py.Dataset, root: str) -> MappedRows:
    source = images.file.filename
    offset = images.id.get_offset()
    if offset is not None:
        return MappedRows(source, offset, images.shape)
    status = os.stat(source)
    key = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]
    copies = [folder / f"{Path(source).stem}-{key}.raw" for folder in usual_folders(root)]
    for path in copies:
        if path.is_file():
            return MappedRows(str(path), 0, images.shape)
    return MappedRows(str(_copied(images, copies)), 0, images.shape)


def _copied(images: h5py.Dataset, copies: list[Path]) -> Path:
    reasons = []
    for path in copies:
        print(f"PatchCamelyon: the images of {images.file.filename} are copied to {path}, once", flush=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_with(path, lambda file: _write_slabs(file, images))
            return path
        except OSError as error:
            reasons.append(str(error))
    needed = f"{images.file.filename} must be copied once, which takes {images.nbytes:,} bytes"
    raise OSError(f"PatchCamelyon: {needed}: {'; '.join(reasons)}")


def _write_slabs(file: Any, images: h5py.Dataset) -> None:
    for start in range(0, len(images), _SLAB):
        file.write(images[start : start + _SLAB].tobytes())
