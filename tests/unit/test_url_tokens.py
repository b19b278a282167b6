"""The token of an account in a URL."""

import pytest

from director.web.url_tokens import token_in_url

CASES = (
    ("/ws/monitor?token=dt_a-Z_9", "/ws/monitor", "dt_a-Z_9"),
    ("/api/assets/x/content?a=1&token=dt_a&b=%20", "/api/assets/x/content?a=1&b=%20", "dt_a"),
    ("/api/x?%74oken=dt_a&token=dt_b", "/api/x", "dt_b"),
    ("/api/x?token=a%0d%0aHost:+evil", "/api/x", ""),
    ("/api/x?token=", "/api/x", ""),
    ("/api/x?tokens=dt_a", "/api/x?tokens=dt_a", None),
    ("/api/x", "/api/x", None),
    ("/account?token=dt_a", "/account?token=dt_a", None),
    ("/apis?token=dt_a", "/apis?token=dt_a", None),
)


@pytest.mark.parametrize(("url", "kept", "token"), CASES)
def test_token_is_taken_out_of_the_url(url: str, kept: str, token: str | None) -> None:
    assert token_in_url(url.encode()) == (kept.encode(), token)
