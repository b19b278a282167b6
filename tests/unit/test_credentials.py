"""Where ``director login`` keeps tokens."""

import os
import sys
from pathlib import Path

import pytest

from director.cli import credentials

A, B = "http://localhost:9820", "https://director.studio.example"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "HOME", "APPDATA", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(credentials, "user_config_path", lambda *_, **__: tmp_path / "config")
    return tmp_path


@pytest.mark.skipif("keyring" in sys.modules, reason="the keyring of this machine")
def test_file_is_private_and_has_a_token_for_each_address() -> None:
    assert credentials.token_of(A) is None
    assert credentials.forget(A) is False
    assert credentials.store(A, "one") == str(credentials.path())
    credentials.store(B, "two")
    credentials.store(A, "three")
    assert (credentials.token_of(A), credentials.token_of(B)) == ("three", "two")
    if os.name == "posix":
        assert credentials.path().stat().st_mode & 0o777 == 0o600
    assert credentials.forget(A) is True
    assert (credentials.token_of(A), credentials.token_of(B)) == (None, "two")
    assert [file.name for file in credentials.path().parent.iterdir()] == ["tokens.json"]


def test_damaged_file_is_as_none() -> None:
    credentials.path().parent.mkdir()
    for text in ("{", "[]", '{"a": 1}'):
        credentials.path().write_text(text)
        assert credentials.token_of(A) is None
    credentials.store(A, "one")
    assert credentials.token_of(A) == "one"


#: A package of this name, with the interface of the real one; ``is_locked``: its keyring refuses.
_KEYRING = """
from keyring import errors
kept, is_locked = {}, False
def _check():
    if is_locked: raise errors.KeyringError
def get_password(service, url): _check(); return kept.get((service, url))
def set_password(service, url, token): _check(); kept[service, url] = token
def delete_password(service, url): _check(); kept.pop((service, url), None)
"""


def test_keyring_is_preferred_and_the_file_takes_its_place_if_it_refuses(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "keyring").mkdir()
    (folder / "keyring" / "__init__.py").write_text(_KEYRING)
    (folder / "keyring" / "errors.py").write_text("class KeyringError(Exception): pass\n")
    for name in ("keyring", "keyring.errors"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    import keyring  # type: ignore[import-not-found,unused-ignore]

    assert credentials.store(A, "one") == "the keyring"
    assert not credentials.path().exists()
    assert credentials.token_of(A) == "one"
    keyring.is_locked = True
    assert credentials.store(A, "two") == str(credentials.path())
    assert credentials.token_of(A) == "two"
    for name in ("keyring", "keyring.errors"):
        sys.modules.pop(name, None)
