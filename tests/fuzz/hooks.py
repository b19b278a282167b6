"""Restricts the requests that schemathesis makes to those for which the document has a rule."""

from typing import Any

import schemathesis


def _is_sent_empty(value: Any) -> bool:
    # Of an object, the keys are sent.
    return value in ("", None) or (
        isinstance(value, list | dict) and all(map(_is_sent_empty, value))
    )


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """An empty parameter, header or form field counts as absent, or is not sent at all."""
    form = (
        case.body
        if case.media_type == "multipart/form-data" and isinstance(case.body, dict)
        else {}
    )
    return not any(
        map(
            _is_sent_empty,
            [*dict(case.query or {}).values(), *dict(case.headers or {}).values(), *form.values()],
        )
    )
