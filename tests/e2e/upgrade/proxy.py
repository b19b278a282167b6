"""nginx with the configuration of docs/operations.md, in front of the test's webs."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.harness.processes import ROOT
from tests.harness.servers import free_port
from tests.harness.waits import answers, until

PROGRAM = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
_MAIN = """
{user} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log notice;
events {{ worker_connections 1024; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/tmp-1; proxy_temp_path {folder}/tmp-2; fastcgi_temp_path {folder}/tmp-3;
    uwsgi_temp_path {folder}/tmp-4; scgi_temp_path {folder}/tmp-5;
    include {folder}/director.conf;
}}
"""


class Proxy:
    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self._folder = folder
        self._port = free_port()
        self.url = f"http://localhost:{self._port}"
        text = (ROOT / "docs/operations/nginx.conf").read_text(encoding="utf-8")
        for theirs, ours in zip(("9820", "9821"), ports, strict=True):
            text = text.replace(f"server 127.0.0.1:{theirs}", f"server 127.0.0.1:{ours}")
        # Without TLS.
        text = re.sub(r"^\s*ssl_.*\n", "", text, flags=re.MULTILINE)
        text = text.replace("listen 80;", f"listen 127.0.0.1:{free_port()};")
        text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{self._port};")
        (folder / "director.conf").write_text(text, encoding="utf-8")
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(_MAIN.format(folder=folder, user=user), encoding="utf-8")

    def start(self) -> subprocess.Popen[bytes]:
        assert PROGRAM is not None
        files = ["-c", str(self._folder / "nginx.conf"), "-e", str(self._folder / "error.log")]
        process = subprocess.Popen([PROGRAM, *files])
        until(lambda: answers(self.url), 10.0, self.printed)
        return process

    def wait_url(self) -> str:
        return self.url

    def printed(self) -> str:
        return (self._folder / "error.log").read_text(encoding="utf-8", errors="replace")


@contextmanager
def proxied(folder: Path, ports: Sequence[int]) -> Iterator[Proxy]:
    """Run nginx in front of two webs until the block ends."""
    folder.mkdir()
    proxy = Proxy(folder, ports)
    process = proxy.start()
    try:
        yield proxy
    finally:
        process.terminate()
        process.wait(10)
