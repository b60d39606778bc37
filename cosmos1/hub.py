# SPDX-License-Identifier: Apache-2.0
"""Released weights from Hugging Face: ``python -m cosmos1.hub download --model Cosmos-1.0-Diffusion-7B-Text2World``.

HF_HOME (where files are kept), HF_TOKEN and HF_HUB_OFFLINE mean what they mean everywhere.
"""

import argparse
import fcntl
import re
import socket
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from cosmos1.errors import CheckpointError, UserError

_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_OWNER = "nvidia"
_SECONDS_TO_ANSWER = 4.0
# The first of these that a release has is fetched: one copy of the weights is enough.
_WEIGHT_FILES = [("model.pt",), ("transformer/*",), ("*.safetensors", "*.safetensors.index.json"), ("nemo/weights/*",)]


def is_model_id(path: str) -> bool:
    """Whether ``path`` has the form ``owner/name``."""
    return _ID.match(path) is not None


def locate(path: str) -> Path:
    """A local file or folder for ``path``, which may be a Hugging Face id (``owner/name``), fetched if it is not there.

    Every process of a run may call this: on each machine one fetches while the others wait for it.

    Raises:
        CheckpointError: the weights cannot be fetched; says whether token, licence, network or files are missing.
    """
    local = Path(path).expanduser()
    if local.exists() or not is_model_id(path):
        return local
    with _one_process_at_a_time(path):
        return download(path)


def download(model: str, output: Path | None = None) -> Path:
    """Fetch a release, or find it in HF_HOME; returns its folder. ``output`` puts the files there instead.

    Raises:
        CheckpointError: see :func:`locate`.
    """
    from huggingface_hub import constants, errors, snapshot_download

    if output is not None and constants.HF_HUB_OFFLINE:  # the hub's library would return any folder that is there
        raise CheckpointError(
            f"HF_HUB_OFFLINE is set, so nothing of {model} can be put into {output}; unset it, or leave the output away to "
            "find what HF_HOME has"
        )
    model_id = model if "/" in model else f"{_OWNER}/{model}"
    try:
        return Path(snapshot_download(model_id, allow_patterns=_patterns(model_id), local_dir=output))
    except errors.HFValidationError as error:
        raise CheckpointError(f"{model} is no Hugging Face id: {error}") from error
    except CheckpointError:
        raise
    except Exception as error:  # the hub's library passes on the errors of an HTTP library that varies with its version
        raise CheckpointError(f"{model_id} cannot be fetched: {_reason(model_id, error)}") from error


def _patterns(model_id: str) -> list[str] | None:
    from fnmatch import fnmatch

    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return None
    _check_reachable(constants.ENDPOINT)
    files = HfApi().list_repo_files(model_id)
    for patterns in _WEIGHT_FILES:
        if any(fnmatch(file, patterns[0]) for file in files):
            return [*patterns, "config.json"]
    raise CheckpointError(
        f"{model_id} holds no weights that are read here (looked for {', '.join(p[0] for p in _WEIGHT_FILES)}; it has "
        f"{', '.join(sorted(files)[:5])}, ...)"
    )


def _check_reachable(endpoint: str) -> None:
    """Raise OSError at once where there is no network; the hub's library would try again for half a minute."""
    place = urlsplit(endpoint)
    if place.scheme in ("http", "https") and not getproxies():
        port = place.port or {"http": 80, "https": 443}[place.scheme]
        socket.create_connection((place.hostname, port), timeout=_SECONDS_TO_ANSWER).close()


def _reason(model_id: str, error: Exception) -> str:
    from huggingface_hub import constants, errors, get_token

    page, command = f"https://huggingface.co/{model_id}", f"python -m cosmos1.hub download --model {model_id}"
    if constants.HF_HUB_OFFLINE:
        return (
            f"HF_HUB_OFFLINE is set and {constants.HF_HUB_CACHE} does not have it; where there is a network, run `{command}` "
            "with the same HF_HOME, or unset HF_HUB_OFFLINE"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or getattr(error, "response", None) is not None:
        status = error.response.status_code if error.response is not None else 401
        if status in (401, 403, 404) and not get_token():
            return (
                f"no access without a token (HTTP {status}); accept the licence at {page}, make a token at "
                "https://huggingface.co/settings/tokens, and set HF_TOKEN; or the name is wrong"
            )
        if isinstance(error, errors.GatedRepoError) or status == 403:
            return f"the account of HF_TOKEN has not accepted the licence; open {page}, accept it, and try again"
        if status in (401, 404):
            return f"there is no such model, or HF_TOKEN is not valid for it (HTTP {status}); see {page}"
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{first}; check network and disk, or run `{command} --output DIR` where both are there and give that folder"


@contextmanager
def _one_process_at_a_time(name: str):
    from huggingface_hub import constants

    try:
        folder = Path(constants.HF_HUB_CACHE)
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / f".cosmos1-{name.replace('/', '--')}.lock", "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise CheckpointError(
            f"HF_HOME cannot be written: {error}; set HF_HOME to a folder with room for the weights"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m cosmos1.hub", description="Released weights from Hugging Face.")
    commands = p.add_subparsers(required=True, metavar="{download}")
    d = commands.add_parser("download", help="fetch a release ahead of time")
    d.add_argument("--model", required=True, help="Cosmos-1.0-Diffusion-7B-Text2World, or owner/name")
    d.add_argument("--output", type=Path, help="put the files here; without it they go to HF_HOME")
    options = p.parse_args(arguments)
    try:
        print(download(options.model, options.output))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
