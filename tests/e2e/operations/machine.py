"""An imitated machine: folders, PostgreSQL, Redis, nginx, and a shell that runs the commands of the
page.

Only the root folder, the ports and the users (``useradd``, ``runuser``, ``setpriv``) differ from
the page. The packages that pip would fetch are those of the tests.
"""

import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.e2e.operations.page import Block
from tests.e2e.operations.systemd import Systemd
from tests.harness.processes import ROOT
from tests.harness.servers import Postgres, Redis, free_port, own_redis, postgres
from tests.harness.waits import until

NAME: Final = "director.studio.example"
_SOURCE: Final = ("director", "jobgroups", "backends", "templates", "docs/operations")
_SOURCE_FILES: Final = (
    *("pyproject.toml", "setup.py", "README.md", "LICENSE", "manage.py", "requirements.txt"),
)
_FOLDERS: Final = ("logs", "home", "usr/local/bin", "etc/systemd/system", "etc/nginx/conf.d")
#: Programs of the page that are replaced: they would need a user, or fetch packages.
_SHIMS: Final = {
    "runuser": 'shift 3; exec "$@"',
    "setpriv": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    "useradd": "exit 0",
    "python3": f'"{sys.executable}" "$@" || exit\n'
    'if [ "$1 $2" = "-m venv" ]; then\n'
    f'  for lib in "$3"/lib/python3*/site-packages; do echo "{sysconfig.get_path("purelib")}" > '
    '"$lib/at-hand.pth"; done\n'
    "fi",
}
_NGINX: Final = """
{user}
daemon on; worker_processes 1; pid {root}/nginx.pid; error_log {root}/nginx.log notice;
events {{ worker_connections 256; }}
http {{
    access_log {root}/access.log;
    client_body_temp_path {root}/tmp-body; proxy_temp_path {root}/tmp-proxy;
    fastcgi_temp_path {root}/tmp-1; uwsgi_temp_path {root}/tmp-2; scgi_temp_path {root}/tmp-3;
    include {root}/etc/nginx/conf.d/*.conf;
}}
"""


class Machine:
    """A machine below one folder. Its servers run; no process of the Director runs yet."""

    def __init__(self, root: Path, database: Postgres, redis_server: Redis) -> None:
        self.root = root
        self.database = database
        self.https, self.http = free_port(), free_port()
        self.webs = (free_port(), free_port())
        self.spare = free_port()
        #: The installed command.
        self.director = root / "opt/director/venv/bin/director"
        self._ports = {
            "9820": str(self.webs[0]),
            "9821": str(self.webs[1]),
            "5432": str(database.port),
            "6379": str(redis_server.port),
        }
        self._source = root / "source"
        shims = root / "shims"
        for folder in (shims, *(root / name for name in _FOLDERS)):
            folder.mkdir(parents=True)
        for name, text in {**_SHIMS, "nginx": self._nginx_shim()}.items():
            (shims / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
            (shims / name).chmod(0o755)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DIRECTOR_", "PG"))}
        path = os.pathsep.join([str(shims), str(root / "usr/local/bin"), os.environ["PATH"]])
        self.environment = {
            **inherited,
            "PATH": path + os.pathsep + "/usr/sbin",
            "DIRECTOR_URL": f"http://localhost:{self.webs[0]}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(database.port),
            "PGUSER": "postgres",
        }
        # As in systemd: no variable of the user who runs the tests.
        clean = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
        self.systemd = Systemd(root, root / "logs", clean)
        self._copy_source()

    def _nginx_shim(self) -> str:
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        return f'exec {program} -c "{self.root}/nginx.conf" -e "{self.root}/nginx.log" "$@"'

    def _copy_source(self) -> None:
        """Copy the release, with this machine's root and ports in the page's files."""
        for name in _SOURCE:
            shutil.copytree(
                ROOT / name, self._source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        for name in _SOURCE_FILES:
            shutil.copy(ROOT / name, self._source)
        for file in (self._source / "docs/operations").iterdir():
            file.write_text(self.here(file.read_text(encoding="utf-8")), encoding="utf-8")
        user = "user root;" if os.geteuid() == 0 else ""
        conf = _NGINX.format(root=self.root, user=user)
        (self.root / "nginx.conf").write_text(conf, encoding="utf-8")

    def here(self, text: str) -> str:
        """Return a text of the page with this machine's root and ports in it."""
        text = re.sub(
            r"(?<![\w./])/(opt|etc|var/lib|var/backups|usr/local/bin)/", rf"{self.root}/\1/", text
        )
        text = re.sub(r"(?<![\w.])~/", f"{self.root}/home/", text)
        text = re.sub(r"\b(9820|9821|5432|6379)\b", lambda found: self._ports[found[0]], text)
        text = text.replace("listen 443 ", f"listen 127.0.0.1:{self.https} ")
        text = text.replace("listen 80;", f"listen 127.0.0.1:{self.http};")
        return text.replace("https://localhost/", f"https://localhost:{self.https}/")

    def follow(self, block: Block, **here: str) -> str:
        """Run one block of the page, its texts replaced by those ``here``, and return its output."""
        text = block.text
        for theirs, ours in here.items():
            text = text.replace(theirs, ours)
        said, script = "", []
        for line in text.replace("\\\n", "").splitlines():
            if line.startswith(("systemctl ", "journalctl ")):
                said += self._shell("\n".join(script))
                script = []
                said += self._systemd(line)
            else:
                script.append(line)
        return said + self._shell("\n".join(script))

    def _shell(self, script: str, status: int = 0) -> str:
        if not script.strip():
            return ""
        log = self.root / "logs/shell.log"
        # A file, since nginx continues to run and would hold a pipe open.
        with log.open("wb") as output:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", self.here(script)],
                cwd=self._source,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=120,
                check=False,
            )
        said = log.read_text(encoding="utf-8", errors="replace")
        assert done.returncode == status, f"{script}\nended with {done.returncode}:\n{said}"
        assert "Traceback" not in said, f"{script}\n{said}"
        return said

    def _systemd(self, line: str) -> str:
        program, *words = shlex.split(self.here(line))
        if program == "journalctl":
            return self.systemd.journal(words)
        if words[-1] == "nginx":
            self._shell({"enable": "nginx", "reload": "nginx -s reload"}[words[0]])
            return ""
        self.systemd.control(words)
        return ""

    def settings(self) -> dict[str, str]:
        lines = (self.root / "etc/director/director.env").read_text(encoding="utf-8").splitlines()
        return dict(
            line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")
        )

    @property
    def url(self) -> str:
        return f"https://localhost:{self.https}"

    @property
    def certificate(self) -> Path:
        return self.root / "etc/director/tls.crt"

    def people(self) -> dict[str, str]:
        """Return the environment of a user of the farm, through nginx."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root / "home"),
            "DIRECTOR_URL": self.url,
            "DIRECTOR_TOKEN": self.settings()["DIRECTOR_TOKEN"],
            "SSL_CERT_FILE": str(self.certificate),
        }

    def client(self, **options: Any) -> httpx.Client:
        """Return a client that trusts nginx's certificate and sends the token, or other headers."""
        token = {"Authorization": f"Bearer {self.settings()['DIRECTOR_TOKEN']}"}
        return httpx.Client(
            base_url=self.url,
            headers=options.pop("headers", token),
            verify=ssl.create_default_context(cafile=str(self.certificate)),
            trust_env=False,
            timeout=60.0,
            **options,
        )

    def wait_healthy(self, client: httpx.Client) -> None:
        def health() -> dict[str, Any]:
            found: dict[str, Any] = client.get("/api/health").json()
            return found

        until(lambda: health().get("status") == "ok", 90.0, health)

    def close(self) -> None:
        self.systemd.close()
        pid = self.root / "nginx.pid"
        if pid.exists():
            self._shell("nginx -s stop")
            until(lambda: not pid.exists())


@contextmanager
def machine(root: Path) -> Iterator[Machine]:
    """Run a machine until the block ends."""
    with ExitStack() as held:
        database = held.enter_context(postgres())
        redis_server = held.enter_context(own_redis())
        made = Machine(root, database, redis_server)
        try:
            yield made
        finally:
            made.close()
