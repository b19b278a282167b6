"""Nothing of a service's URL gets out."""

import pytest

from jobgroups.domain.notices import Message
from jobgroups.runner.notices import channels
from tests.harness.processes import python

# One of apprise's many services still uses it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mailto://ann:p%40ss!w0rd@mail.example", "535 for ann with p@ss!w0rd (p%40ss!w0rd)"),
        ("tgram://123456:AAbbCC/987", "404 at /bot123456:AAbbCC/sendMessage"),
        ("json://u:hunter22@10.0.0.9:99/hook?key=tok-1", "no route to 10.0.0.9/hook?key=tok-1"),
    ],
)
def test_a_reason_has_no_part_of_the_url(url: str, text: str) -> None:
    shown = channels.without_secrets(text, url)
    for secret in ("p@ss", "p%40ss", "AAbbCC", "123456", "hunter22", "10.0.0.9", "tok-1", "ann"):
        assert secret not in shown


def test_what_apprise_does_not_understand_is_said_without_it() -> None:
    wrong = channels.send("nosuchthing://user:verysecret@host", Message("a", "b"))
    assert wrong == "apprise does not understand this URL."


def test_urls_stand_between_blanks_or_commas_and_may_have_commas() -> None:
    code = (
        "import director.settings as s, sys; print(s.DIRECTOR_NOTIFY, s.DIRECTOR_NOTIFY_ON);"
        "assert 'apprise' not in sys.modules"
    )
    done = python("-c", code, DIRECTOR_NOTIFY=" json://a/,mailto://u:p@b?to=x@y,z@y  xml://c , ")
    assert not done.returncode
    assert done.stdout.startswith("['json://a/', 'mailto://u:p@b?to=x@y,z@y', 'xml://c'] ['group_")
