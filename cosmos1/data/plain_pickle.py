# SPDX-License-Identifier: Apache-2.0
"""Pickles of other people: plain values and, where they are expected, numpy arrays, but nothing that runs code."""

import codecs
import io
import pickle
from typing import Any, Dict, Optional

import numpy as np

from cosmos1.errors import DataError


def load_plain_pickle(content: bytes, where: str, allowed: Optional[Dict[str, Any]] = None) -> Any:
    """Unpickle containers, numbers and strings, and what is `allowed` by its name "module.name".

    A pickle can run any code, so one from elsewhere is refused (DataError) if it holds anything else.
    """

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if allowed and f"{module}.{name}" in allowed:
                return allowed[f"{module}.{name}"]
            raise DataError(f"{where}: holds a {module}.{name}, which is not loaded from foreign files.")

    try:
        return Restricted(io.BytesIO(content)).load()
    except DataError:
        raise
    except Exception as error:
        # Damaged content can raise anything, says the documentation of pickle.
        raise DataError(f"{where}: cannot be unpickled ({error!r}). Get the file again.") from error


def _array_builders() -> Dict[str, Any]:
    """What pickled numpy arrays and numbers need, under the names of numpy 1 and 2."""
    builders = {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype, "_codecs.encode": codecs.encode}
    for package in ("numpy.core", "numpy._core"):
        builders[f"{package}.multiarray._reconstruct"] = np._core.multiarray._reconstruct
        builders[f"{package}.multiarray.scalar"] = np._core.multiarray.scalar
        builders[f"{package}.numeric._frombuffer"] = np._core.numeric._frombuffer
    return builders


ARRAY_BUILDERS = _array_builders()
