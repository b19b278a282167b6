import base64
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.comfyui.address import check_headers, normalise_url, slug_for_url

LOOPBACK = "http://localhost:8188"

ADDRESSES = tomllib.loads(Path(__file__).with_name("addresses.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ADDRESSES["loopback"])
def test_every_loopback_spelling_is_localhost(text: str) -> None:
    assert normalise_url(text).url == LOOPBACK


@pytest.mark.parametrize(("text", "url", "slug"), ADDRESSES["spellings"])
def test_one_address_has_one_spelling_and_a_readable_slug(text: str, url: str, slug: str) -> None:
    normal = normalise_url(text)
    assert (normal.url, normal.authorization, slug_for_url(text)) == (url, None, slug)
    # A prefix may hold percent signs and must survive a second pass.
    assert normalise_url(url).url == url


@pytest.mark.parametrize(("text", "sentence"), ADDRESSES["malformed"])
def test_malformed_address_is_explained_and_not_repeated(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        normalise_url(text)
    assert "secret" not in str(caught.value)


def test_login_becomes_basic_auth_and_is_never_shown() -> None:
    address = normalise_url("https://us%40er:p%3A%C3%A4ss@farm/gpu1")
    assert address.url == "https://farm/gpu1"
    encoded = address.headers_with({})["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(encoded).decode() == "us@er:p:äss"
    assert encoded not in repr(address)


@settings(max_examples=50)
@given(st.text())
def test_any_text_is_an_address_or_a_sentence(text: str) -> None:
    url, refused = "", ""
    try:
        url = normalise_url(text).url
    except ValueError as exc:
        refused = str(exc)
    if refused:
        assert refused.startswith(("The ", "An "))
        return
    assert normalise_url(url).url == url
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", slug_for_url(url))


@pytest.mark.parametrize(("name", "value"), ADDRESSES["headers"])
def test_headers_that_would_break_requests_are_refused_and_not_shown(name: str, value: str) -> None:
    fine = {"Authorization": "Bearer abc", "X-Token": "a b", "X-Empty": ""}
    assert check_headers(fine) == fine
    with pytest.raises(ValueError, match="header") as caught:
        check_headers(fine | {name: value})
    assert "secret" not in str(caught.value)
