"""The shapes of accounts and their tokens."""

from jobgroups.domain.shapes import Moment, Parsed, record


@record
class Identity(Parsed):
    """Who sends the requests.

    Attributes:
        name: Of the account; None: the Director has no accounts.
        role: ``viewer``, ``artist``, ``operator``, ``administrator`` or ``service``.
        right: What it may do at most: ``see``, ``submit``, ``operate`` or ``administer``.
        token_id: The token that was sent; None: another credential, or none.
        scope: Of that token: ``read``, ``submit``, ``operate`` or ``delegate``.
    """

    name: str | None
    role: str | None
    right: str
    token_id: str | None = None
    scope: str | None = None


@record
class Token(Parsed):
    """A token of an account.

    Attributes:
        scope: ``read``, ``submit``, ``operate`` or ``delegate``.
        owner: The account.
        used_at: Its last use, to the hour; None: it was not used.
    """

    id: str
    name: str
    scope: str
    owner: str
    created_at: Moment
    expires_at: Moment | None
    used_at: Moment | None


@record
class NewToken(Token):
    """A token in the answer that made it.

    Attributes:
        token: Its text, which is shown this once.
    """

    token: str


@record
class Person(Parsed):
    """An account.

    Attributes:
        role: ``viewer``, ``artist``, ``operator``, ``administrator`` or ``service``.
    """

    name: str
    role: str | None
    is_active: bool
    has_password: bool
    signed_in_at: Moment | None


@record
class NewPerson(Person):
    """An account in the answer that made it.

    Attributes:
        password_link: Sets its password once, within three days; None: it is a service.
    """

    password_link: str | None
