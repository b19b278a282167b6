"""Small libraries that change what a process sees of the system; built from the C files beside this
one.
"""

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_preload = pytest.mark.skipif(
    COMPILER is None or not sys.platform.startswith("linux"),
    reason="LD_PRELOAD and a C compiler are needed",
)


@functools.cache
def library(name: str) -> Path:
    """Return the shared library of ``name``.c, built once a run."""
    assert COMPILER is not None
    source = Path(__file__).with_name(f"{name}.c")
    folder = Path(tempfile.mkdtemp(prefix="preload-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    built = folder / f"{name}.so"
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(built), str(source), "-ldl"], check=True
    )
    return built
