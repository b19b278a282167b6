"""The command line, shared by `python -m backends.simulator` and `manage.py simulate`."""

import argparse
import asyncio
import contextlib
import json
import re
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from backends.simulator.config import COMMON_CHECKPOINTS, DEFAULT_CHECKPOINTS, RECORDED_VERSIONS
from backends.simulator.faults import KINDS, FaultError, Faults, parse_fault
from backends.simulator.process import PortInUse
from backends.simulator.server import Simulator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    count = partial(_whole, 1, 10_000)
    where = parser.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on")
    where.add_argument(
        "--port",
        type=partial(_whole, 0, 65_535),
        default=8188,
        help="first port; further servers take the next ones; 0: free ones",
    )
    where.add_argument("--count", type=count, default=1, help="how many servers")
    where.add_argument("--name", default="gpu", help="their name; several are numbered")
    where.add_argument("--json", action="store_true", help="print one JSON line when all listen")
    runs = parser.add_argument_group("how prompts run")
    runs.add_argument("--seconds", type=_seconds, default=4.0, help="sampling time of a prompt")
    runs.add_argument("--steps", type=count, help="steps of a prompt (default: the workflow's)")
    runs.add_argument("--lenient", action="store_true", help="run what ComfyUI would refuse, too")
    runs.add_argument("--preview-fps", type=_seconds, default=0.0, help="previews per second")
    runs.add_argument("--output-dir", type=Path, help="keep the images here")
    runs.add_argument("--vram", type=_seconds, default=24.0, metavar="GB", help="0: a CPU device")
    runs.add_argument("--krita", action="store_true", help="have Krita's own nodes, too")
    runs.add_argument("--model", action="append", default=[], help="a checkpoint to offer, too")
    recorded = " and ".join(RECORDED_VERSIONS)
    runs.add_argument(
        "--comfyui-version",
        type=_version,
        default=RECORDED_VERSIONS[-1],
        metavar="VERSION",
        help=f"behave as this version; recorded are {recorded}, others follow from the known "
        "changes",
    )
    wrong = parser.add_argument_group("what goes wrong, and who saw it")
    wrong.add_argument("--audit-log", type=Path, help="append what happens to this file")
    wrong.add_argument(
        "--fault",
        action="append",
        default=[],
        type=_fault,
        metavar="NAME[:k=v,...]",
        help=f"order a fault on every server: {', '.join(sorted(KINDS))}",
    )


def simulators(options: Namespace) -> list[Simulator]:
    several = options.count > 1
    folder = options.output_dir
    return [
        Simulator(
            faults=options.fault,
            name=(name := f"{options.name}-{index + 1}" if several else options.name),
            host=options.host,
            port=options.port + index if options.port else 0,
            seconds=options.seconds,
            steps=options.steps,
            lenient=options.lenient,
            preview_fps=options.preview_fps,
            output_dir=folder / name if folder is not None and several else folder,
            vram_gb=options.vram or None,
            version=options.comfyui_version,
            checkpoints=(*DEFAULT_CHECKPOINTS, *COMMON_CHECKPOINTS, *options.model),
            krita=options.krita,
            audit_log=options.audit_log,
        )
        for index in range(options.count)
    ]


def run(options: Namespace) -> int:
    """Serve until SIGINT or SIGTERM; the exit status."""
    try:
        servers = simulators(options)
    except OSError as error:
        print(  # noqa: T201 - a command's output
            f"Cannot start: {error.filename} cannot be used: {error.strerror}."
            " --audit-log takes a file that can be written, --output-dir a folder.",
            file=sys.stderr,
        )
        return 1
    try:
        asyncio.run(_serve(servers, as_json=options.json))
    except (PortInUse, PermissionError) as error:
        print(f"Cannot start: {error}", file=sys.stderr)  # noqa: T201 - a command's output
        return 1
    return 0


async def _serve(servers: Sequence[Simulator], *, as_json: bool) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises instead
            loop.add_signal_handler(number, stopping.set)
    async with contextlib.AsyncExitStack() as stack:
        for server in servers:
            await stack.enter_async_context(server)
        lines = [f"{server.name}: simulated ComfyUI at {server.url}" for server in servers]
        if as_json:
            urls = [server.url for server in servers]
            lines = [json.dumps({"urls": urls, "names": [server.name for server in servers]})]
        print("\n".join(lines), flush=True)  # noqa: T201 - a command's output
        await stopping.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m backends.simulator", description="Serve simulated ComfyUIs."
    )
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def _whole(low: int, high: int, text: str) -> int:
    with contextlib.suppress(ValueError):
        if low <= int(text) <= high:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if float(text) >= 0:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 up")


def _version(text: str) -> str:
    if re.fullmatch(r"\d+\.\d+(\.\d+)?", text, re.ASCII):
        return text
    such_as = " or ".join(RECORDED_VERSIONS)
    raise argparse.ArgumentTypeError(
        f"{text!r} is no version: two or three numbers, such as {such_as}"
    )


def _fault(text: str) -> str:
    """Check an order at once, so that a wrong one is refused before the servers start."""
    try:
        name, options = parse_fault(text)
        Faults(lambda _fault, _facts: None).inject(name, **options)
    except FaultError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
