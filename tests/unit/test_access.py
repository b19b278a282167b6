"""Who a client says it is."""

import pytest

from director.cli.environment import submitter
from jobgroups.domain.access import is_account_token

TOKEN = f"dt_{'a-_9' * 10}abc"


def test_command_line_sends_no_user_and_host_with_the_token_of_an_account(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DIRECTOR_SUBMITTER", raising=False)
    assert is_account_token(TOKEN)
    assert submitter(TOKEN) is None
    for shared in (None, "a-shared-secret-of-the-farm", f"{TOKEN}x"):
        assert "@" in (submitter(shared) or "")
    monkeypatch.setenv("DIRECTOR_SUBMITTER", "customer-17")
    assert submitter(TOKEN) == submitter(None) == "customer-17"
