import re
import runpy
import tomllib
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from tests.harness.processes import ROOT

INVALID = tomllib.loads(Path(__file__).with_name("invalid_settings.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "value", "text"), [(name, *one) for name, some in INVALID.items() for one in some])
def test_invalid_setting_is_described(monkeypatch: pytest.MonkeyPatch, name: str, value: str, text: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured, match=re.escape(text)) as refused:
        runpy.run_path(str(ROOT / "director" / "settings.py"))
    assert "hunter22" not in str(refused.value)
