"""The tokens of ``director login``, by the address of the Director: in the keyring if the package
``keyring`` and a keyring are there, else in a file that only its owner reads.
"""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from platformdirs import user_config_path

_SERVICE: Final = "comfyui-director"


def path() -> Path:
    """Return the file of the tokens, which may not exist."""
    return user_config_path("comfyui-director", appauthor=False) / "tokens.json"


def token_of(url: str) -> str | None:
    """Return the stored token for an address."""
    keyring = _keyring()
    if keyring is not None:
        with contextlib.suppress(keyring.errors.KeyringError):
            if token := keyring.get_password(_SERVICE, url):
                return str(token)
    return _read().get(url)


def store(url: str, token: str) -> str:
    """Store the token for an address, and return where it is."""
    forget(url)
    keyring = _keyring()
    if keyring is not None:
        with contextlib.suppress(keyring.errors.KeyringError):
            keyring.set_password(_SERVICE, url, token)
            return "the keyring"
    _write({**_read(), url: token})
    return str(path())


def forget(url: str) -> bool:
    """Remove the token for an address; return whether there was one."""
    had = token_of(url) is not None
    keyring = _keyring()
    if keyring is not None:
        with contextlib.suppress(keyring.errors.KeyringError):
            keyring.delete_password(_SERVICE, url)
    tokens = _read()
    if tokens.pop(url, None) is not None:
        _write(tokens)
    return had


def _keyring() -> Any:
    """Return the package; None: it is not installed."""
    try:
        import keyring  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 optional
        import keyring.errors  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    except ImportError:
        return None
    return keyring


def _read() -> dict[str, str]:
    try:
        tokens = json.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_valid = isinstance(tokens, dict) and all(isinstance(token, str) for token in tokens.values())
    return tokens if is_valid else {}


def _write(tokens: dict[str, str]) -> None:
    """Replace the file. Its mode is 0600 from the beginning."""
    folder = path().parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)  # its mode is 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(tokens, file)
        Path(name).replace(path())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
