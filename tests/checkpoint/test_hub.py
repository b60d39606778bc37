# SPDX-License-Identifier: Apache-2.0
"""What is said when released weights cannot be fetched. Each case is a process of its own: the library reads the
environment when it is imported. A small local server plays the hub."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cosmos1 import hub

MODEL = "Cosmos-1.0-Diffusion-7B-Text2World"


def run_hub(tmp_path, *arguments: str, **environment: str):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    kept |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"} | environment
    return subprocess.run(
        [sys.executable, "-m", "cosmos1.hub", "download", "--model", MODEL, *arguments],
        capture_output=True,
        text=True,
        env=kept,
        timeout=60,
    )


@pytest.fixture
def serve():
    """Starts a server that answers every request with one status and error code; gives its address."""
    servers = []

    def start(status: int, code: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "2")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(b"{}")

            do_HEAD = do_GET

            def log_message(self, *arguments):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def assert_refused(result, *words: str) -> None:
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1, result.stderr
    for word in (f"error: nvidia/{MODEL} cannot be fetched", *words):
        assert word in result.stderr


def test_offline_without_the_files(tmp_path):
    result = run_hub(tmp_path, HF_HUB_OFFLINE="1")
    assert_refused(
        result, "HF_HUB_OFFLINE is set", str(tmp_path / "hf"), f"cosmos1.hub download --model nvidia/{MODEL}"
    )


def test_offline_with_the_files(tmp_path):
    snapshot = tmp_path / f"hf/hub/models--nvidia--{MODEL}/snapshots/{'0' * 40}"
    snapshot.mkdir(parents=True)
    (snapshot / "model.pt").write_text("weights")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0" * 40)
    result = run_hub(tmp_path, HF_HUB_OFFLINE="1")
    assert (result.returncode, result.stdout.strip()) == (0, str(snapshot)), result.stderr


def test_offline_into_a_folder_that_is_there(tmp_path):
    result = run_hub(tmp_path, "--output", str(tmp_path), HF_HUB_OFFLINE="1")
    assert (result.returncode, result.stdout) == (2, "") and "HF_HUB_OFFLINE is set, so nothing of" in result.stderr


@pytest.mark.parametrize(
    "status, code, token, words",
    [
        (401, "RepoNotFound", None, ["no access without a token", "accept the licence", "set HF_TOKEN"]),
        (403, "GatedRepo", "hf_x", ["has not accepted the licence", f"https://huggingface.co/nvidia/{MODEL}"]),
        (404, "RepoNotFound", "hf_x", ["there is no such model"]),
    ],
)
def test_no_access(tmp_path, serve, status, code, token, words):
    environment = {"HF_TOKEN": token} if token else {}
    assert_refused(run_hub(tmp_path, HF_ENDPOINT=serve(status, code), **environment), *words)


def test_no_network(tmp_path):
    result = run_hub(tmp_path, HF_ENDPOINT="nowhere://127.0.0.1:9")
    assert_refused(result, "check network", "--output DIR")


def test_local_paths_stay_local(tmp_path):
    assert hub.locate(str(tmp_path)) == tmp_path
    assert hub.locate(str(tmp_path / "nowhere")) == tmp_path / "nowhere"
