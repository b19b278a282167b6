"""``serve`` as three processes: this one holds locks and ports, and starts the others: web, runner
and files.

It imports no app of Django and uses no database, so that it is small, starts at once and lives as
long as it is to. The others are those of a farm (``serve --no-runner``, ``runner``, ``files``). One
that ends is started again, while the others go on. All end with this one, also if it is killed.
"""

import argparse
import asyncio
import contextlib
import functools
import logging
import logging.config
import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from django.conf import settings

from director.cli import output
from director.server import data_dir, garbage, listen, pairs, shutdown
from director.web.processes import ProcessState
from jobgroups.database.locks import AlreadyLocked, FileLock

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

DEFAULT_PORT: Final = 9820
#: What Python runs in each process, before the arguments.
PROGRAM: tuple[str, ...] = ("-m", "director")
#: Seconds after a signal at which processes that have not ended are killed: the last of them exits
#: by its timer before.
_KILL_AFTER: Final = shutdown.EXIT_TIMEOUT + 0.3
_EXIT_AFTER: Final = _KILL_AFTER + 1.0
#: Seconds for the processes of a ``serve`` that was killed, of which one may have to import its
#: code first.
_LEFT_WITHIN: Final = 20.0
_LONGEST_PAUSE: Final = 30.0  #: Seconds between two starts of a process.
_FIRST_PAUSE: Final = 0.5  #: After the second end; the first restart is at once.
_STEADY_SECONDS: Final = 60.0  #: A process that ran for so long is started again at once.

#: Descriptors of files whose locks last as long as this process and all that it started.
_inherited_by_all: Final[list[int]] = []

Say = Callable[[str], None]  #: Prints a message for the operator.


class Unprotected(Exception):
    """Everyone on the network could use the Director; the message says what to do."""


REFUSALS: Final = (Unprotected, data_dir.DataFolderUnusable, listen.CannotListen, AlreadyLocked)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``serve``."""
    parser.add_argument("--host", default="localhost", help="address to listen on (loopback)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port (default 9820)")
    parser.add_argument(
        "--comfyui-port",
        type=int,
        default=settings.DIRECTOR_COMFYUI_PORT or None,
        help="port at which the Director answers programs of ComfyUI as one ComfyUI, such as 9821",
    )
    parser.add_argument(
        "--allow-anonymous",
        action="store_true",
        help="allow everyone on the network to submit and cancel, with a --host other than"
        " loopback; not needed with DIRECTOR_TOKEN or DIRECTOR_ACCOUNTS",
    )
    parser.add_argument(
        "--no-migrate",
        action="store_true",
        help="do not migrate the database; wait until it is migrated",
    )
    parser.add_argument(
        "--no-runner", action="store_true", help="start no runner; use separate `runner` processes"
    )
    parser.add_argument(
        "--processes",
        type=int,
        choices=(1, 3),
        default=3,
        help="3 (default): web, runner and files are processes of their own; 1: one process, "
        "which needs less memory",
    )


def main(arguments: Sequence[str]) -> None:
    """Run ``serve`` and exit, if it is to be several processes; else return, also from arguments
    that are unknown here.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    add_arguments(parser)
    try:
        options, others = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        return
    if others or not is_supervised(vars(options)):
        return
    logging.config.dictConfig(settings.LOGGING)
    try:
        status = run(vars(options), functools.partial(output.print_line, sys.stdout))
    except REFUSALS as error:
        print(f"CommandError: {error}", file=sys.stderr)  # noqa: T201 as Django prints it
        status = 1
    sys.exit(status)


def is_supervised(options: Mapping[str, Any]) -> bool:
    """Return whether ``serve`` is to be several processes."""
    return options["processes"] > 1 and not options["no_runner"]


@contextlib.contextmanager
def prepared(options: Mapping[str, Any], say: Say) -> Iterator[list[socket.socket]]:
    """Check the options, and give bound sockets while the lock on the data folder is held; raise
    ``REFUSALS``.
    """
    host = options["host"]
    is_guarded = (
        listen.is_loopback(host) or bool(settings.DIRECTOR_TOKEN) or settings.DIRECTOR_ACCOUNTS
    )
    if not is_guarded and not options["allow_anonymous"]:
        raise Unprotected(
            f"--host {host} lets everyone on the network use the Director. Set DIRECTOR_TOKEN"
            " or DIRECTOR_ACCOUNTS=1 to require a sign-in, or add --allow-anonymous."
        )
    shutdown.exit_on_signals()
    folder = data_dir.prepare(say)
    refusal = (
        f"A Director is already running with this data folder ({folder}). Stop it first, or set "
        "DIRECTOR_DATA_DIR."
    )
    # One Director with a runner, and one for each other port.
    if options["no_runner"]:
        sockets = _bound_sockets(options)
        lock = FileLock(folder / f"serve-{listen.port_of(sockets[0])}.lock", refusal)
        lock.acquire()
    else:
        lock = FileLock(folder / "serve.lock", refusal)
        lock.acquire()
        _wait_for_processes(folder)
        sockets = _bound_sockets(options)
    say(f"Data folder: {folder}")
    try:
        yield sockets
    finally:
        lock.release()


def _bound_sockets(options: Mapping[str, Any]) -> list[socket.socket]:
    """Return the sockets of the Director's port, then those of the ComfyUI listener, whose port
    becomes the setting.
    """
    sockets = listen.bind_sockets(options["host"], options["port"])
    if (port := options["comfyui_port"]) is not None:
        if port in settings.DIRECTOR_DISCOVER_PORTS:
            raise listen.CannotListen(
                f"--comfyui-port {port} is one of the ports at which a Director looks for ComfyUIs "
                "(8188 to 8199). Choose another one, such as 9821."
            )
        bound = listen.bind_sockets(options["host"], port, option="--comfyui-port")
        settings.DIRECTOR_COMFYUI_PORT = listen.port_of(bound[0])
        sockets += bound
    return sockets


def _wait_for_processes(folder: Path) -> None:
    """Lock what all processes of one ``serve`` inherit; those of one that was killed end, and have
    ports until then.
    """
    if sys.platform == "win32":
        return
    lock = os.open(folder / "serve-processes.lock", os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + _LEFT_WITHIN
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        time.sleep(0.05)
    _inherited_by_all.append(lock)


def announce(host: str, port: int, say: Say) -> None:
    """Print where the Director can be reached."""
    hosts = listen.display_hosts(host)
    first, *others = [f"http://{name}:{port}" for name in hosts]
    say(f"Director is ready at {first}")
    for url in others:
        say(f"On the network: {url}")
    if settings.DIRECTOR_COMFYUI_PORT:
        say(f"As one ComfyUI: http://{hosts[0]}:{settings.DIRECTOR_COMFYUI_PORT}")
    else:
        say("Programs of ComfyUI can use the farm as one ComfyUI: add --comfyui-port 9821.")
    if hosts != ["localhost"] and not (settings.DIRECTOR_TOKEN or settings.DIRECTOR_ACCOUNTS):
        say(
            "Everyone on the network can submit and cancel; set DIRECTOR_TOKEN to require a "
            "sign-in."
        )


def run(options: Mapping[str, Any], say: Say) -> int:
    """Serve as several processes until SIGTERM or Ctrl-C; return the exit status. Raise
    ``REFUSALS``.
    """
    with prepared(options, say) as sockets:
        no_migrate = ["--no-migrate"] if options["no_migrate"] else []
        anonymous = ["--allow-anonymous"] if options["allow_anonymous"] else []
        web = ["serve", "--processes", "1", "--no-runner", "--host", options["host"], *anonymous]
        if settings.DIRECTOR_COMFYUI_PORT:
            web += ["--comfyui-port", str(settings.DIRECTOR_COMFYUI_PORT)]
        supervisor = _Supervisor(
            [
                _Process("web", web, sockets),
                _Process("runner", ["runner", "--skip-checks", *no_migrate]),
                _Process("files", ["files", "--skip-checks", "--no-migrate"], is_needed=False),
            ],
            on_ready=functools.partial(announce, options["host"], listen.port_of(sockets[0]), say),
            sockets=sockets,
        )
        garbage.collect_new_objects()
        return asyncio.run(supervisor.run())


class _Process:
    """A process that is started again whenever it ends.

    If one ``is_needed``, ``serve`` is ready when that is, and ends if it cannot start. The others
    are started afterwards.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        sockets: Sequence[socket.socket] = (),
        *,
        is_needed: bool = True,
    ) -> None:
        self.name = name
        self.is_needed = is_needed
        self.arguments = arguments
        self.sockets = sockets
        self.running: asyncio.subprocess.Process | None = None
        self.connection: pairs.Connection | None = None
        self.was_ready = False  #: Whether it, or a predecessor, worked.
        self.state = ProcessState(name, pid=0, is_running=False)

    def send(self, data: bytes) -> None:
        """Send a frame to the present process, if there is one."""
        if self.connection is not None:
            self.connection.send(data)

    def end(self) -> None:
        """Have it end in order: the end of its input is SIGTERM to it on every platform, once it
        has started.
        """
        if self.running is not None and self.running.stdin is not None:
            self.running.stdin.close()
            if sys.platform != "win32":
                self._signal(self.running.terminate)

    def kill(self) -> None:
        """End it at once."""
        if self.running is not None:
            logger.warning("%s: has not ended within %g s, and is killed", self.name, _KILL_AFTER)
            self._signal(self.running.kill)

    @staticmethod
    def _signal(send: Callable[[], None]) -> None:
        # It may have ended already: its wait returns a moment later.
        with contextlib.suppress(ProcessLookupError):
            send()


class _Supervisor:
    """Runs processes until a signal, or until one of them cannot start at all.

    ``on_ready`` is called when those that are needed work for the first time. ``sockets`` are
    closed when a signal comes.
    """

    def __init__(
        self,
        processes: Sequence[_Process],
        *,
        on_ready: Callable[[], None],
        sockets: Sequence[socket.socket],
    ) -> None:
        self._processes = processes
        self._on_ready = on_ready
        self._sockets = sockets
        self._status = 0
        self._is_open = False  #: Whether the database is migrated.
        self._groups: dict[str, set[_Process]] = defaultdict(set)

    async def run(self) -> int:
        self._stopping = asyncio.Event()
        #: Set when those that are needed work, or a signal has come.
        self._started = asyncio.Event()
        shutdown.on_signals(asyncio.get_running_loop(), self._stopping.set, within=_EXIT_AFTER)
        async with asyncio.TaskGroup() as tasks:
            for process in self._processes:
                tasks.create_task(self._keep(process), name=process.name)
            await self._stopping.wait()
            self._started.set()
            # Before the web closes its own: the last of them refuses further connections, after it
            # has accepted the others.
            for each in self._sockets:
                each.close()
            for process in self._processes:
                process.end()
            killing = asyncio.get_running_loop().call_later(_KILL_AFTER, self._kill)
        killing.cancel()
        return self._status

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()

    async def _keep(self, process: _Process) -> None:
        pause = 0.0
        if not process.is_needed:
            await self._started.wait()
        while not self._stopping.is_set():
            began = time.monotonic()
            status = await self._run_once(process)
            if self._stopping.is_set():
                return
            if status > 0 and process.is_needed and not process.was_ready:
                # It has printed why.
                self._status = status
                self._stopping.set()
                return
            cause = f"signal {-status}" if status < 0 else f"status {status}"
            if time.monotonic() - began > _STEADY_SECONDS:
                pause = 0.0
            logger.warning(
                "%s: ended unexpectedly (%s); starting it again in %g s", process.name, cause, pause
            )
            process.state = msgspec.structs.replace(
                process.state,
                is_running=False,
                ends=process.state.ends + 1,
                ended_at=time.time(),
                cause=cause,
            )
            self._report()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)

    async def _run_once(self, process: _Process) -> int:
        """Start a process, and return its exit status when it has ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            process.running = running = await _start_process(
                process.arguments, [theirs, *process.sockets]
            )
        decode = msgspec.msgpack.Decoder(pairs.ToSupervisor).decode
        process.connection = connection = pairs.Connection(
            decode, functools.partial(self._on_message, process)
        )
        await connection.open(ours)
        process.state = msgspec.structs.replace(process.state, pid=running.pid, is_running=True)
        if self._is_open:
            process.send(pairs.frame(pairs.Begin()))
            self._report()
        if self._stopping.is_set():
            process.end()
        status = await running.wait()
        process.running = process.connection = None
        for group in list(self._groups):
            self._leave(process, group)
        if connection.dropped:
            logger.warning(
                "%s: %d messages were dropped, which it did not read",
                process.name,
                connection.dropped,
            )
        connection.close()
        await asyncio.sleep(0)  # in which the loop closes it
        return status

    def _on_message(self, process: _Process, message: pairs.ToSupervisor) -> None:
        match message:
            case pairs.Publish(group, form):
                members = self._groups.get(group, set()) - {process}
                data = pairs.frame(pairs.Deliver(form)) if members else b""
                for member in members:
                    member.send(data)
            case pairs.Join(group):
                self._groups[group].add(process)
            case pairs.Leave(group):
                self._leave(process, group)
            case pairs.Opened():
                self._begin()
            case pairs.Ready():
                self._count_ready(process)

    def _leave(self, process: _Process, group: str) -> None:
        self._groups[group].discard(process)
        if not self._groups[group]:
            del self._groups[group]

    def _begin(self) -> None:
        if not self._is_open:
            self._is_open = True
            for process in self._processes:
                process.send(pairs.frame(pairs.Begin()))
            self._report()

    def _count_ready(self, process: _Process) -> None:
        process.was_ready = True
        if not self._started.is_set() and all(
            each.was_ready for each in self._processes if each.is_needed
        ):
            self._started.set()
            self._on_ready()

    def _report(self) -> None:
        if self._is_open:
            data = pairs.frame(pairs.Report([process.state for process in self._processes]))
            for process in self._processes:
                process.send(data)


async def _start_process(
    arguments: Sequence[str], sockets: Sequence[socket.socket]
) -> asyncio.subprocess.Process:
    """Start a process that inherits sockets, and whose standard input ends with this process."""
    # Ctrl-C in a terminal reaches all processes of its group; only this one is to act on it.
    special: dict[str, Any]
    if sys.platform == "win32":
        inherited, special = (
            str(len(sockets)),
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP},
        )
    else:
        numbers = [each.fileno() for each in sockets]
        inherited, special = ",".join(map(str, numbers)), {"pass_fds": numbers + _inherited_by_all}
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = await asyncio.create_subprocess_exec(
            # -P: modules in the present folder do not count.
            *(sys.executable, "-P", *PROGRAM, *arguments, "--inherited", inherited),
            stdin=subprocess.PIPE,
            env=_environment(),
            **special,
        )
    finally:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if sys.platform == "win32" and process.stdin is not None:
        for each in sockets:
            shared = each.share(process.pid)
            process.stdin.write(len(shared).to_bytes(4, "big") + shared)
    return process


def _environment() -> dict[str, str]:
    """Return this process's environment; with a source tree, in which ``director`` is not
    installed, its folder.
    """
    inherited = dict(os.environ)  # noqa: TID251 passed on, not read
    if settings.DIRECTOR_COMFYUI_PORT:
        # No process takes this port for a ComfyUI.
        inherited["DIRECTOR_COMFYUI_PORT"] = str(settings.DIRECTOR_COMFYUI_PORT)
    if (settings.BASE_DIR / "manage.py").exists():
        paths = [str(settings.BASE_DIR), *filter(None, [inherited.get("PYTHONPATH")])]
        inherited["PYTHONPATH"] = os.pathsep.join(paths)
    return inherited
