"""Names of saved files: a template, filled with the facts of each file. Pure.

The zip, the command line and the typed client use this module, so that a file has the same name in
all of them. No value makes a folder or leaves one: a ``/`` of the template makes a folder, one of a
value never does.
"""

import json
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping
from string import Formatter
from typing import Any, Final, NamedTuple, TypeAlias

from jobgroups.domain.media_types import media_type
from jobgroups.domain.text import input_labels

DEFAULT_TEMPLATE: Final = "{seed}_{backend}_{name}"
#: The names that every file has. They precede metadata and variations.
FIXED: Final = ("index", "number", "seed", "backend", "name", "job", "group")

Facts: TypeAlias = Mapping[str, Any]  #: The names of one file with their values; see ``facts``.

#: What a file system does not allow in a name, control characters, and those that reverse the
#: direction of text, which can show another extension.
_FORBIDDEN: Final = re.compile(
    r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]'
)
_WINDOWS_DEVICES: Final = re.compile(
    r"(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³]|conin\$|conout\$) *(\..*)?", re.IGNORECASE
)
#: Of Python's format specifications those of numbers, up to a width of 99.
_SPECIFICATION: Final = re.compile(r"[+ -]?(0?[1-9]\d?)?(\.\d\d?)?[dxXeEfFgG%]?", re.ASCII)
# Most file systems allow 255 bytes a part; a number is added. Windows allows 260 characters a path
# by default.
_MAX_PART: Final = 180
_MAX_PATH: Final = 400
_MAX_DEPTH: Final = 8
_MAX_VALUE: Final = 80  #: Of one value, so that a long prompt leaves space for the seed behind it.
_MAX_EXTENSION: Final = 20
_MAX_LISTED: Final = 40  #: Names in an error.


class TemplateInvalid(ValueError):
    """The template has a form, or a name, that cannot be filled."""


class FileName(NamedTuple):
    """A relative path with ``/``, safe on every system; ``str`` includes the number of the file,
    unless it is 1.
    """

    stem: str  #: With its folders.
    extension: str  #: With its dot; may be empty.
    number: int = 1  #: Of the files with this stem and extension in one download.

    def __str__(self) -> str:
        number = "" if self.number == 1 else f"_{self.number}"
        return f"{self.stem}{number}{self.extension}"


class _Field(NamedTuple):
    name: str
    specification: str

    def filled(self, facts: Facts) -> str:
        text = _text(
            facts.get(self.name), self.specification or ("04" if self.name == "index" else "")
        )[:_MAX_PART]
        return _cut_bytes(
            _FORBIDDEN.sub("_", text), _MAX_PART if self.name == "name" else _MAX_VALUE
        )


def _field(name: str, specification: str, conversion: str | None) -> _Field:
    field = f"{{{name[:_MAX_VALUE]}}}"
    if not name or name.isdigit():
        raise TemplateInvalid(f"{field} has no name; write for example {{seed}}.")
    if conversion or set(name) & set("[]{}") or ("." in name and name.partition(".")[0] in FIXED):
        raise TemplateInvalid(
            f"{field} must be a plain name, without conversion, attribute or item."
        )
    if not _SPECIFICATION.fullmatch(specification):
        raise TemplateInvalid(f"The format of {field} must be one of a number, such as 03 or .2f.")
    return _Field(name, specification)


class Template:
    """A template such as ``{scene}/{index}_{cfg:.1f}.png``; raises ``TemplateInvalid``.

    A name in it is a key of ``facts`` as a whole: no attribute and no item of a value can be read.
    """

    def __init__(self, text: str) -> None:
        parts: list[list[str | _Field]] = [[]]
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as error:
            raise TemplateInvalid(f"The template {text!r} is wrong: {error}.") from None
        for literal, name, specification, conversion in parsed:
            first, *others = _FORBIDDEN.sub(
                lambda match: "/" if match[0] == "/" else "_", literal
            ).split("/")
            parts[-1].append(first)
            parts += [[other] for other in others]
            if name is not None:
                parts[-1].append(_field(name, specification or "", conversion))
        if not any(parts[-1]):
            raise TemplateInvalid("The template must end with the name of a file.")
        last = parts[-1][-1]
        if isinstance(last, str) and media_type(last := f"x{last}") != media_type(""):
            # The file's own extension replaces it.
            parts[-1][-1] = last.rpartition(".")[0][1:]
        self._parts = [part for part in parts[:-1] if any(part)] + parts[-1:]
        if len(self._parts) > _MAX_DEPTH:
            raise TemplateInvalid(f"The template must have at most {_MAX_DEPTH - 1} folders.")
        # Not by the length of a path: all files of a folder must be in one folder.
        self._limit = min(_MAX_PART, _MAX_PATH // len(self._parts))

    def check(self, known: Iterable[str]) -> None:
        """Raise ``TemplateInvalid`` if the template has a name that is neither ``known`` nor fixed."""
        names = dict.fromkeys([*FIXED, *sorted(set(known))])
        used = [part.name for parts in self._parts for part in parts if isinstance(part, _Field)]
        if unknown := next((name for name in used if name not in names), None):
            listed = ", ".join(f"{{{name[:_MAX_VALUE]}}}" for name in list(names)[:_MAX_LISTED])
            more = ", …" if len(names) > _MAX_LISTED else ""
            raise TemplateInvalid(f"No file has {{{unknown}}}. Names: {listed}{more}.")

    def fill(self, facts: Facts) -> FileName:
        """Return the name of the file with these facts. What it lacks is empty, an empty part is
        ``_``.
        """
        texts = [
            "".join(
                segment if isinstance(segment, str) else segment.filled(facts) for segment in part
            )
            for part in self._parts
        ]
        extension = _extension(str(facts["name"]))
        stem = texts.pop()
        if extension and stem[-len(extension) :].casefold() == extension.casefold():
            stem = stem[: -len(extension)]
        folders = [_part(text, self._limit) for text in texts]
        return FileName(
            "/".join([*folders, _part(stem, self._limit - len(extension.encode()))]), extension
        )


class FileNames:
    """Names the files of one download or zip: no two of its names differ only by upper and lower
    case.
    """

    def __init__(self, template: Template) -> None:
        self._template = template
        self._known: set[str] = set()
        # Of each name the last number that was given to its stem. The zip lists missing files under
        # the first.
        self._numbers = {"missing.txt": 1}

    def of(self, facts: Facts) -> FileName:
        """Return the name of the next file."""
        self._known.update(facts)
        name = self._template.fill(facts)
        number = self._numbers.get(key := _fold(name), 0) + 1
        while number > 1 and _fold(name._replace(number=number)) in self._numbers:
            number += 1
        self._numbers[key] = number
        name = name._replace(number=number)
        self._numbers.setdefault(_fold(name), 1)
        return name

    def check(self) -> None:
        """Raise ``TemplateInvalid`` if the template has a name that none of the files had."""
        if self._known:
            self._template.check(self._known)


def facts(
    *,
    index: int | None = None,
    number: int | None = None,
    seed: int | None = None,
    backend: str | None = None,
    name: str = "",
    job: str | None = None,
    group: str | None = None,
    metadata: Facts | None = None,
    variation: Facts | None = None,
    group_metadata: Facts | None = None,
) -> dict[str, Any]:
    """Return the names of a file with their values.

    An input of the variation, ``3.cfg``, is also ``cfg``, if no other of its inputs is.

    Args:
        index: Number of the job in its group, from 1.
        number: Number of the file in its job, from 1.
        name: The file's name at its backend.
        metadata: Those of the job.
    """
    plain = {label: (variation or {})[key] for key, label in input_labels(variation or ()).items()}
    own = posixpath.basename(name.replace("\\", "/")) or "output"
    fixed = dict(zip(FIXED, (index, number, seed, backend, own, job, group), strict=True))
    return {**(group_metadata or {}), **plain, **(variation or {}), **(metadata or {}), **fixed}


_DEFAULT: Final = Template(DEFAULT_TEMPLATE)


def default_name(seed: int, backend_id: str, filename: str) -> str:
    """Return ``{seed}_{backend}_{name}``, the name under which a browser saves one file."""
    return str(_DEFAULT.fill(facts(seed=seed, backend=backend_id, name=filename)))


def _text(value: Any, specification: str) -> str:
    """Return a value as text; one that is no number, or does not fit the specification, without the
    specification.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return format(value, specification)
        except (ValueError, OverflowError):
            pass
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _cut_bytes(text: str, limit: int) -> str:
    """Cut to so many bytes, never inside a character."""
    return unicodedata.normalize("NFC", text).encode()[: max(limit, 0)].decode("utf-8", "ignore")


def _part(text: str, limit: int) -> str:
    part = _cut_bytes(text.strip(" ."), limit).rstrip(" .")
    # A program would read a name that begins with "-" as an option (rm *).
    is_unsafe = not part or part.startswith("-") or _WINDOWS_DEVICES.fullmatch(part)
    return f"_{part}" if is_unsafe else part


def _extension(name: str) -> str:
    stem, _, extension = _FORBIDDEN.sub("_", name).rstrip(" .").rpartition(".")
    return f".{extension}" if stem and len(extension.encode()) < _MAX_EXTENSION else ""


def _fold(name: FileName) -> str:
    return unicodedata.normalize("NFC", str(name).casefold())
