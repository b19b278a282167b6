import base64
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.comfyui.address import check_headers, normalise_url, slug_for_url

LOOPBACK = "http://localhost:8188"


SPELLINGS = (
    "localhost:8188 LOCALHOST:8188 localhost http://localhost.:8188/ http://127.0.0.1:8188"
    " 127.9.9.9:8188 127.1:8188 2130706433:8188 http://0x7f.0.0.1:8188 http://0.0.0.0:8188//"
    " http://[::1]:8188 [::1]:8188 ::1 http://[::]:8188 http://[0:0:0:0:0:0:0:1]:8188"
    " http://[::ffff:127.0.0.1]:8188"
)


@pytest.mark.parametrize("text", [" http://localhost:8188 ", *SPELLINGS.split()])
def test_every_loopback_spelling_is_localhost(text: str) -> None:
    assert normalise_url(text).url == LOOPBACK


@pytest.mark.parametrize(
    ("text", "url", "slug"),
    [
        ("192.168.100.6:8188", "http://192.168.100.6:8188", "192.168.100.6_8188"),
        (LOOPBACK, LOOPBACK, "localhost_8188"),
        ("gpu-1", "http://gpu-1:8188", "gpu-1_8188"),
        ("http://gpu", "http://gpu", "gpu_80"),
        ("http://gpu:80/", "http://gpu", "gpu_80"),
        ("HTTPS://Farm.Example:443/", "https://farm.example", "farm.example_443"),
        ("https://farm:8443/a%20b/", "https://farm:8443/a%20b", "farm_8443_a-20b"),
        ("https://farm//gpu1//", "https://farm/gpu1", "farm_443_gpu1"),
        ("http://[FE80:0::1]:8188", "http://[fe80::1]:8188", "fe80--1_8188"),
        ("http://[2001:db8::1]", "http://[2001:db8::1]", "2001-db8--1_80"),
        ("http://[::2]:1", "http://[::2]:1", "2_1"),
        ("[::ffff:10.0.0.1]:1", "http://10.0.0.1:1", "10.0.0.1_1"),
        ("http://bücher.example:1", "http://xn--bcher-kva.example:1", "xn--bcher-kva.example_1"),
        ("http://traefik.localhost:1", "http://traefik.localhost:1", "traefik.localhost_1"),
    ],
)
def test_one_address_has_one_spelling_and_a_readable_slug(text: str, url: str, slug: str) -> None:
    normal = normalise_url(text)
    assert (normal.url, normal.authorization, slug_for_url(text)) == (url, None, slug)
    # A prefix may hold percent signs and must survive a second pass.
    assert normalise_url(url).url == url


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("ftp://gpu", "must begin with http"),
        ("http://", "no host"),
        ("http://:8188", "no host"),
        ("http://u:secret@/", "no host"),
        ("http://gpu:0", "from 1 to 65535"),
        ("http://gpu:99999", "from 1 to 65535"),
        ("gpu:port", "malformed host or port"),
        ("http://a b", "spaces"),
        ("http://a\\b", "spaces"),
        ("http://a\0b", "spaces"),
        ("http://gpu/?q", "query"),
        ("http://gpu/#f", "fragment"),
        ("http://[::1", "malformed"),
        ("http://[fe80::1%25eth0]:1", "zone"),
        ("http://1.2.3.4.5", "malformed IPv4"),
        ("http://300.1.1.1", "malformed IPv4"),
        ("http://-gpu", "malformed host name"),
        ("http://a..b", "malformed host name"),
        ("http://\u0663", "malformed host name"),
        ("http://a.xn--8hb.example", "malformed host name"),
        ("http://xn--zz", "malformed host name"),
        (f"http://{'a' * 64}", "malformed host name"),
        ("http://gpu/a/../b", "folder"),
        ("http://gpu/%2e%2e", "folder"),
    ],
)
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Bad Name", "x"),
        ("", "x"),
        ("X\r\nY", "x"),
        ("Host", "x"),
        ("content-length", "1"),
        ("Origin", "http://x"),
        ("Sec-WebSocket-Key", "x"),
        ("X-Token", "secret\r\nX-Other: 1"),
        ("X-Token", "sécret"),
        ("X-Token", "secret "),
        ("X-Token", "secret\0"),
    ],
)
def test_headers_that_would_break_requests_are_refused_and_not_shown(name: str, value: str) -> None:
    fine = {"Authorization": "Bearer abc", "X-Token": "a b", "X-Empty": ""}
    assert check_headers(fine) == fine
    with pytest.raises(ValueError, match="header") as caught:
        check_headers(fine | {name: value})
    assert "secret" not in str(caught.value)
