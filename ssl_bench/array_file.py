"""An npz file's arrays by name, or one reason why they cannot be had; nothing in the file is run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_bench.messages import reason_of
from ssl_bench.whole_zip import check_zip


def read_arrays(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays `names`, and of `optional` those that are there.

    ValueError, the reason without the file's name: damaged, no npz, without a name, of objects (which only a pickle could hold), or
    one that unpacks to far more than it is.  OSError: it cannot be read.
    """
    check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers as Python 2 wrote them
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in (*names, *(name for name in optional if name in file))}
    except (ValueError, KeyError, EOFError, TypeError, LookupError, ArithmeticError, AttributeError, MemoryError, RecursionError) as error:
        raise ValueError(reason_of(error, 160)) from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # a member that is no array comes as its bytes
            raise ValueError(f"{name} is no array")
    return arrays
