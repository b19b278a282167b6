"""The shapes of the API's answers: each field is stated here, once.

The server makes answers of rows by them (``jobgroups.serializers``), ``director.client`` makes
objects of answers, and ``docs/schema.py`` describes them in the OpenAPI document. The fields are in
the order of the answers. The shapes are dataclasses, which programs with the client replace and
compare; msgspec converts and describes them.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, TypeAlias, TypeVar, dataclass_transform

import msgspec

T = TypeVar("T")

Raw: TypeAlias = dict[str, Any]

#: A time with its offset (the server sends UTC).
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def record(kind: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose fields are named when it is called."""
    return dataclass(frozen=True, slots=True, kw_only=True)(kind)


@record
class Parsed:
    """A value that keeps its JSON object, with the fields of a newer server. ``raw`` is not
    compared.
    """

    raw: Raw = field(default_factory=dict, repr=False, compare=False)
