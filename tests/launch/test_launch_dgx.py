# SPDX-License-Identifier: Apache-2.0
"""What NeMo-Run sends to DGX Cloud and keeps on disk."""

import http.server
import json
import threading
from pathlib import Path

import pytest

from cosmos1.launch.executors import dgx
from cosmos1.launch.jobs import make_job
from cosmos1.launch.profile_file import choose_profile
from tests.launch.launching import ROOT

PROFILES = str(Path(__file__).parent / "profiles.yaml")


@pytest.fixture
def service():
    """Answers every request with a token; yields its address and the requests."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"accessToken": "granted"}')

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()


def test_credentials_reach_the_service_and_not_the_disk(service, monkeypatch):
    from nemo_run.core.execution.dgxcloud import DGXCloudExecutor
    from nemo_run.core.serialization.yaml import YamlSerializer

    url, requests = service
    monkeypatch.setattr(DGXCloudExecutor, "get_auth_token", DGXCloudExecutor.get_auth_token)  # restored afterwards
    monkeypatch.setenv("DGXCLOUD_CLIENT_ID", "sentinel_id")
    monkeypatch.setenv("DGXCLOUD_CLIENT_SECRET", "sentinel_secret")
    monkeypatch.chdir(ROOT)
    _, profile = choose_profile(None, "dgxcloud", PROFILES, [f"base_url={url}"])
    job = make_job(["recipes/diffusion/general.py"], profile, None)
    dgx.DGXCloud().require({"base_url": url})
    executor = dgx.dgxcloud_executor(job)
    assert executor.get_auth_token() == "granted"
    assert (requests[0]["clientId"], requests[0]["clientSecret"]) == ("sentinel_id", "sentinel_secret")
    stored = YamlSerializer().serialize(executor.to_config())
    assert "$DGXCLOUD_CLIENT_SECRET" in stored and "sentinel" not in stored
