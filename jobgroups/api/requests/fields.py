"""Strict serializers of requests: JSON types are not converted, and all field errors are reported
together.

``"300"``, ``300.0`` and ``true`` are not integers. An optional field that is ``null`` counts as
absent.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, ClassVar, Final, TypeAlias

from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from backends.errors import InvalidRequest
from jobgroups.serializers import to_json
from jobgroups.workflow.validation import shown_key

#: C0, DEL and C1, and Unicode's own line and paragraph separators.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MAX_WRONG_ENTRIES: Final = 10  #: Of a list with many wrong entries, the first are reported.

FieldErrors: TypeAlias = list[dict[str, str]]


class _Strict(serializers.Field[Any, Any, Any, Any]):
    """A field of one JSON type, with one sentence for every wrong value."""

    json_type: ClassVar[type]
    sentence: ClassVar[str]

    def __init__(self, sentence: str = "", **options: Any) -> None:
        codes = ("invalid", "blank", "max_length", "min_value", "max_value")
        messages = dict.fromkeys(codes, sentence or self.sentence) | {"required": "Is required."}
        super().__init__(error_messages=messages | options.pop("error_messages", {}), **options)

    def to_internal_value(self, data: Any) -> Any:
        """Refuse another type; ``true`` is not an integer, though Python says so."""
        if type(data) is not self.json_type:
            self.fail("invalid")
        return data


class Integer(_Strict, serializers.IntegerField):
    json_type = int

    def __init__(self, low: int, high: int, *, why: str = "", **options: Any) -> None:
        sentence = f"Must be an integer from {low} to {high}{why}."
        super().__init__(sentence, min_value=low, max_value=high, **options)


class Weight(_Strict, serializers.FloatField):
    """A positive number."""

    json_type = float
    sentence = "Must be a number from 0.01 to 100."

    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=0.01, max_value=100.0, **options)

    def to_internal_value(self, data: Any) -> Any:
        """Accept an integer, too."""
        return super().to_internal_value(float(data) if type(data) is int else data)


class Limit(Integer):
    """A number of jobs or prompts; null: any number."""

    def __init__(self, **options: Any) -> None:
        super().__init__(1, 1_000_000, required=False, allow_null=True, **options)


class Flag(_Strict, serializers.BooleanField):
    json_type = bool
    sentence = "Must be true or false."


class Object(_Strict, serializers.DictField):
    json_type = dict
    sentence = "Must be an object."


class Anything(serializers.Field[Any, Any, Any, Any]):
    """A value that is checked together with others."""

    def to_internal_value(self, data: Any) -> Any:
        return data


class Text(_Strict, serializers.CharField):
    json_type = str

    def __init__(self, longest: int, **options: Any) -> None:
        sentence = f"Must be a string of 1 to {longest} characters."
        options = {"sentence": sentence, "trim_whitespace": False, **options}
        super().__init__(max_length=longest, **options)


class Line(Text):
    def __init__(self, longest: int, **options: Any) -> None:
        sentence = f"Must be a string of 1 to {longest} characters, blanks around it aside."
        super().__init__(longest, sentence=sentence, trim_whitespace=True, **options)

    def to_internal_value(self, data: Any) -> str:
        """Refuse control characters. Of a line that is too long, its length is reported."""
        line: str = super().to_internal_value(data).strip()
        if len(line) <= (self.max_length or 0) and _CONTROL.search(line):
            raise ValidationError("Must not contain line breaks or other control characters.")
        return line


class Choice(serializers.ChoiceField):
    """One of some values; of a mapping (JSON value to meaning), the meaning."""

    def __init__(self, choices: Iterable[str] | Mapping[Any, Any], **options: Any) -> None:
        if isinstance(choices, Mapping):
            self.meanings, names = dict(choices), map(to_json, choices)
        else:
            self.meanings, names = {choice: choice for choice in choices}, map(str, choices)
        sentence = f"Must be one of {', '.join(names)}."
        messages: Any = {"invalid_choice": sentence, "required": "Is required."}
        super().__init__(choices=list(self.meanings), error_messages=messages, **options)

    def to_internal_value(self, data: Any) -> Any:
        """Look the value up by its type too: 1 is not true."""
        if not isinstance(data, bool | str) or data not in self.meanings:
            self.fail("invalid_choice")
        return self.meanings[data]


class Texts(_Strict, serializers.ListField):
    """A list of non-empty strings. ``empty`` is the sentence with which an empty list is refused."""

    json_type = list
    sentence = "Must be a list of strings."

    def __init__(
        self, longest: int, *, most: int | None = None, empty: str = "", **options: Any
    ) -> None:
        self.longest, self.most = longest, most
        messages = {"empty": empty, "max_length": f"Must have at most {most} entries."}
        super().__init__(
            child=Text(longest), allow_empty=not empty, error_messages=messages, **options
        )

    def to_internal_value(self, data: Any) -> list[str]:
        """Check the entries without a call for each: a body may have millions."""
        entries: list[Any] = _Strict.to_internal_value(self, data)
        if not entries and not self.allow_empty:
            self.fail("empty")
        if self.most is not None and len(entries) > self.most:
            self.fail("max_length")
        wrong = [
            at
            for at, value in enumerate(entries)
            if not isinstance(value, str) or not 1 <= len(value) <= self.longest
        ]
        if wrong:
            message = f"Must be a string of 1 to {self.longest} characters."
            raise ValidationError(dict.fromkeys(map(str, wrong[:_MAX_WRONG_ENTRIES]), message))
        return entries


class RequestSerializer(serializers.Serializer[Any]):
    """The fields of a request. All requests share one instance, since DRF copies the fields for
    each new one.
    """

    #: The error of a field that is not declared; None: it is ignored.
    unknown: ClassVar[str | None] = "Is not a field of this."
    #: The fields of which null is a value; one that is absent has no value then.
    nullable: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def read(cls, body: Mapping[str, Any], errors: FieldErrors | None = None) -> dict[str, Any]:
        """Return the checked values by field; raise ``InvalidRequest`` with every field that is
        wrong or unknown.

        ``errors`` are errors that were found before.
        """
        values, wrong = cls.check(body)
        unknown = [
            {"field": name, "message": cls.unknown}
            for name in cls.unknown_fields(body)
            if cls.unknown
        ]
        if all_errors := [*(errors or ()), *wrong, *unknown]:
            raise InvalidRequest(errors=all_errors)
        return values

    @classmethod
    def check(cls, body: Mapping[str, Any]) -> tuple[dict[str, Any], FieldErrors]:
        """Return the values, or no values and the errors of the declared fields."""
        nullable = cls.nullable
        given = {
            name: value for name, value in body.items() if value is not None or name in nullable
        }
        try:
            return _shared_serializer(cls).run_validation(given), []
        except ValidationError as error:
            return {}, _flat(error.detail)

    @classmethod
    def unknown_fields(cls, body: Iterable[str]) -> list[str]:
        return [shown_key(name) for name in body if not _shared_serializer(cls).is_known(name)]

    def is_known(self, name: str) -> bool:
        return name in self.fields


@cache
def _shared_serializer(kind: type[RequestSerializer]) -> RequestSerializer:
    return kind()


def _flat(detail: Any, path: str = "") -> FieldErrors:
    """Return DRF's nested errors in our form: a dotted path and a sentence each."""
    if isinstance(detail, Mapping):
        return [
            error
            for name, below in detail.items()
            for error in _flat(below, f"{path}.{name}" if path else name)
        ]
    messages = detail if isinstance(detail, list) else [detail]
    return [{"field": path, "message": str(message)} for message in messages]
