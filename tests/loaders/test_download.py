"""Downloads are there when they are whole and right; several processes that want one download it once."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from loaders.download import download
from loaders.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CODE = "import sys, pathlib, loaders.download as d; d.download(sys.argv[1], pathlib.Path(sys.argv[2]))"
CONTENT = b"weights" * 1000


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:3000])
        self.wfile.flush()
        self.server.rest.wait(60)
        self.wfile.write(CONTENT[3000:])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    """Sends the first half of ``CONTENT`` at once, and the rest when ``rest`` is set; ``asked`` lists the requests."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        running.asked, running.rest, running.daemon_threads = [], threading.Event(), True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        running.url = f"http://127.0.0.1:{running.server_port}/net.pt"
        yield running
        running.rest.set()
        running.shutdown()


def start(url: str, path: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CODE, url, path], cwd=ROOT, stderr=subprocess.PIPE)


def arriving(folder: Path) -> bool:
    return any(folder.glob(".net.pt.*.partial"))


def test_a_kill_leaves_no_file_and_the_next_start_nothing_else(server, tmp_path):
    path = tmp_path / "new" / "net.pt"
    process = start(server.url, path)
    while not arriving(path.parent):
        assert process.poll() is None
    process.kill()
    process.communicate()
    assert not path.exists() and os.listdir(path.parent)
    server.rest.set()
    download(server.url, path, hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest())
    assert path.read_bytes() == CONTENT and os.listdir(path.parent) == ["net.pt"]
    download("http://127.0.0.1:9/none", path)  # it is there


def test_several_processes_download_once(server, tmp_path):
    path = tmp_path / "net.pt"
    processes = [start(server.url, path) for _ in range(3)]
    while not arriving(tmp_path):
        pass
    server.rest.set()
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert server.asked == ["/net.pt"] and os.listdir(tmp_path) == ["net.pt"] and path.read_bytes() == CONTENT


def test_what_is_wrong_is_not_kept(server, tmp_path):
    server.rest.set()
    path = tmp_path / "net.pt"
    with pytest.raises(UserError, match=f"{server.url} is not the published file: its MD5 sum is .* should be 01"):
        download(server.url, path, md5="01")
    with pytest.raises(UserError, match=f"{server.url} cannot be fetched .invalid hash.*by other means"):
        download(server.url, path, "0123")
    for url in ("http://127.0.0.1:9/none", "no url", (tmp_path / "none").as_uri()):
        with pytest.raises(UserError, match=f"{url} cannot be fetched .*put the file at {path} by other means"):
            download(url, path)
    assert not os.listdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be fetched"):
        download(server.url, tmp_path / "file" / "net.pt")
