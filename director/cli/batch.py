"""Batches: ``--sweep``, ``--csv`` and ``--inputs`` become the ``sweep`` or the ``jobs`` of a
submission.

A value gets the type of the workflow's own value. What the Director would refuse is refused first,
with option or line.
"""

import csv
import glob
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from director.cli import option_types
from director.cli.assets import LocalFile
from director.cli.dry_run import similar_inputs
from director.cli.exit_status import CommandError, usable, usage_error
from jobgroups.domain.file_names import facts
from jobgroups.workflow import ParameterInvalid, WorkflowTemplate
from jobgroups.workflow.assets import FILE_INPUTS
from jobgroups.workflow.batch import MAX_JOBS, SEED_AXIS, Batch, BatchInvalid, jobs_of, sweep_of
from jobgroups.workflow.parameters import Targets

_NUMBER: Final = r"(-?[0-9]{1,16}(?:\.[0-9]{1,16})?)"
_RANGE: Final = re.compile(rf"{_NUMBER}\.\.{_NUMBER}(?::{_NUMBER})?")
_META: Final = "meta:"
_PLACE: Final = re.compile(
    r"(?:sweep\.axes|jobs)\.(\d+)\.(?:values\.(\d+)|(?:parameters\.)?(.*))", re.DOTALL
)
_MAX_METADATA: Final = 2**30  #: Bytes; the Director has the limit.


class BatchRequest(NamedTuple):
    """The jobs of a submission, each with inputs of its own."""

    #: ``sweep`` or ``jobs``, with a ``LocalFile`` for each file that is not uploaded.
    fields: dict[str, Any]
    names: set[str]  #: Of what its jobs give to the names of saved files.


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--sweep``, ``--csv``, ``--inputs`` and ``--zip``, which are arguments of ``read``."""
    sweep = "Vary an input: 3.cfg=5,7,9, steps=10..30:5, text=@lines.txt, seed=x4; may be repeated."
    inputs = "Vary an input of files: 'frames/*.png', 10.image='frames/*.png'; may be repeated."
    pairs = "Pair the values of --sweep and --inputs instead of combining each with each."
    rows = "One job for each row of a CSV whose columns are inputs, seed and meta:KEY."
    filled = option_types.require_text
    for option in (
        click.option("--zip", "is_zip", is_flag=True, help=pairs),
        click.option(
            "--inputs", "globs", multiple=True, type=filled, metavar="[INPUT=]GLOB", help=inputs
        ),
        click.option("--csv", "csv_file", type=filled, metavar="FILE", help=rows),
        click.option("--sweep", "sweeps", multiple=True, metavar="INPUT=VALUES", help=sweep),
    ):
        command = option(command)
    return command


def read(
    graph: Mapping[str, Any],
    template: WorkflowTemplate,
    *,
    sweeps: Sequence[str],
    csv_file: str | None,
    globs: Sequence[str],
    is_zip: bool,
    upload: bool = False,
) -> BatchRequest | None:
    """Return the batch of these options, None without one.

    Args:
        graph: The workflow.
        template: The workflow with the parameters of the group.
        upload: Upload local files that the options name for an input of files.

    Raises:
        CommandError: An option or a file is wrong.
    """
    inputs = _Inputs(graph, template, upload=upload)
    if csv_file is not None:
        if sweeps or globs or is_zip:
            raise click.UsageError(
                "--csv has all jobs: use it without --sweep, --inputs and --zip."
            )
        jobs, where = _csv_jobs(csv_file, inputs)
        return _check_request(
            {"jobs": jobs},
            where,
            lambda plain: jobs_of(template, plain["jobs"], "random", 0, _MAX_METADATA),
        )
    if not sweeps and not globs:
        if is_zip:
            raise click.UsageError("--zip pairs the values of --sweep and --inputs.")
        return None
    axes = [_axis(pair, inputs) for pair in sweeps] + [_file_axis(text, inputs) for text in globs]
    where = [
        f"--{'sweep' if at < len(sweeps) else 'inputs'} {axis['input']}"
        for at, axis in enumerate(axes)
    ]
    sweep = {"mode": "zip" if is_zip else "product", "axes": axes}
    return _check_request(
        {"sweep": sweep}, where, lambda plain: sweep_of(template, plain["sweep"], None, 0)
    )


def _check_request(
    fields: dict[str, Any], where: Sequence[str], expand: Callable[[Any], Batch]
) -> BatchRequest:
    """Return the request if the Director's own function can expand it; ``where`` is the text for
    each axis or job.
    """
    try:
        # As the Director reads it: a LocalFile is a text.
        jobs = expand(json.loads(json.dumps(fields))).jobs
    except BatchInvalid as error:
        raise _invalid(error, where, f"--{'csv' if 'jobs' in fields else 'sweep'}") from None
    names = {name for job in jobs for name in facts(variation=job.variation, metadata=job.metadata)}
    return BatchRequest(fields, names)


def _invalid(error: BatchInvalid, where: Sequence[str], option: str) -> CommandError:
    lines = []
    for path, message in error.errors:
        place = option
        if match := _PLACE.fullmatch(path):
            value = f", value {int(match[2]) + 1}" if match[2] else ""
            place = where[int(match[1])] + (value or (f", {match[3]}" if option == "--csv" else ""))
        lines.append(f"{place}: {message}")
    return usage_error("\n".join(lines))


class _Inputs:
    """The inputs of a workflow, and the types of their values."""

    def __init__(
        self, graph: Mapping[str, Any], template: WorkflowTemplate, *, upload: bool
    ) -> None:
        self.nodes = template.workflow
        self._graph = graph
        self._upload = upload
        self._targets = Targets(template.workflow)
        #: Types of the values of each input that was checked.
        self.kinds = {SEED_AXIS: {"integer"}}

    def check(self, name: str, where: str) -> None:
        """Raise ``CommandError`` if no job can have a value of its own for an input; ``where``
        begins the message.
        """
        if name in self.kinds:
            return
        try:
            [(_, target, _)] = self._targets.read({name: None})
            problem, self.kinds[name] = target.problem, set(target.kinds)
        except ParameterInvalid as error:
            problem = error.message
        if problem:
            raise usage_error(f"{where}: {problem}", similar_inputs(name, self._graph))

    def value(self, name: str, text: str) -> Any:
        """Return the value of a text for an input that was checked: a text if it has one, else JSON
        if it is JSON.
        """
        if "string" in self.kinds[name]:
            is_file = (
                self._upload
                and name.rpartition(".")[2] in FILE_INPUTS
                and Path(text).expanduser().is_file()
            )
            return LocalFile(text) if is_file else text
        # Spreadsheets write TRUE.
        return option_types.json_or_text(text.lower() if "boolean" in self.kinds[name] else text)


def _axis(pair: str, inputs: _Inputs) -> dict[str, Any]:
    [(name, text)] = option_types.split_pairs("--sweep", [pair])
    inputs.check(name, f"--sweep {name}")
    if name == SEED_AXIS and re.fullmatch("x[0-9]{1,9}", text):
        return {"input": name, "count": int(text[1:])}
    if text.startswith("@") and not text.startswith("@@"):
        lines = _text_of(text[1:]).replace("\r\n", "\n").split("\n")
        return {
            "input": name,
            "values": [inputs.value(name, line) for line in lines if line.strip()],
        }
    try:
        [cells] = csv.reader(
            [text[1:] if text.startswith("@@") else text], skipinitialspace=True, strict=True
        )
    except (csv.Error, ValueError) as error:
        raise usage_error(
            f"--sweep {name}: {error}.", 'Write a value with a comma as "a, b".'
        ) from None
    return {
        "input": name,
        "values": [value for cell in cells for value in _values(name, cell, inputs)],
    }


def _values(name: str, cell: str, inputs: _Inputs) -> list[Any]:
    """Return one value, or for an input with a number those of a range, ``5..9`` or
    ``0.2..0.8:0.2``.
    """
    match = _RANGE.fullmatch(cell.strip())
    if match is None or inputs.kinds[name].isdisjoint({"integer", "number"}):
        return [inputs.value(name, cell)]
    start, end, step = (Decimal(part or "1") for part in match.groups())
    if step <= 0:
        raise usage_error(f"--sweep {name}: The step of {cell} must be above 0.")
    count = int(abs(end - start) / step) + 1
    if count > MAX_JOBS:
        raise usage_error(f"--sweep {name}: {cell} has {count:,} values; at most {MAX_JOBS:,}.")
    number: Callable[[Decimal], Any] = float if "." in cell.replace("..", "") else int
    return [number(start + (step if end >= start else -step) * at) for at in range(count)]


def _file_axis(text: str, inputs: _Inputs) -> dict[str, Any]:
    name, equals, pattern = text.partition("=")
    if not equals or re.search(r"[/\\*?\[]", name):
        name, pattern = _only_file_input(inputs), text
    inputs.check(name, f"--inputs {name}")
    # Not every shell expands a pattern: that of Windows does not. A glob of Path has no absolute
    # patterns.
    matching = glob.iglob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207
    paths = [path for path in matching if Path(path).is_file()]
    if not paths:
        raise usage_error(f"--inputs {name}: No file matches {pattern}.")
    # A name with a folder is judged missing by no check of the dry run.
    files = [
        LocalFile(path if Path(path).parent.name else f"./{path}")
        for path in sorted(paths, key=_natural)
    ]
    return {"input": name, "values": files}


def _only_file_input(inputs: _Inputs) -> str:
    names = [
        f"{node_id}.{name}"
        for node_id, node in inputs.nodes.items()
        for name, value in node["inputs"].items()
        if name in FILE_INPUTS and isinstance(value, str | dict)
    ]
    if len(names) == 1:
        return names[0]
    has = f"several inputs of files: {', '.join(names)}" if names else "no input of a file"
    raise usage_error(
        f"--inputs: The workflow has {has}.", "Name the input: --inputs 10.image='frames/*.png'."
    )


def _natural(path: str) -> list[Any]:
    """Return a key that sorts frame2 before frame10."""
    return [
        int(part) if at % 2 else part.casefold()
        for at, part in enumerate(re.split(r"([0-9]+)", path))
    ]


def _text_of(name: str) -> str:
    """Return the text of a file in UTF-8."""
    with usable(name):
        content = Path(name).expanduser().read_bytes().removeprefix(b"\xef\xbb\xbf")
    wrong = content.find(b"\0")
    try:
        if wrong < 0:
            return content.decode()
    except UnicodeDecodeError as error:
        wrong = error.start
    line = content.count(b"\n", 0, wrong) + 1
    message = f"{name}, line {line}: The byte 0x{content[wrong]:02X} is no text in UTF-8."
    raise usage_error(message, "Save the file as UTF-8 (in a spreadsheet: CSV UTF-8).")


def _csv_jobs(name: str, inputs: _Inputs) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the ``jobs`` of a CSV, and the line of each as text."""
    rows = _rows(name)
    place, header = next(rows, ("", []))
    columns = [re.sub(r"^metadata\.", _META, cell.strip()) for cell in header]
    for at, column in enumerate(columns):
        where = f"{place}, column {at + 1}"
        if not column.removeprefix(_META) or column in columns[:at]:
            problem = (
                f"There are two columns {column}."
                if column.removeprefix(_META)
                else "It has no name."
            )
            raise usage_error(f"{where}: {problem}")
        if not column.startswith(_META):
            inputs.check(column, f"{where}, {column}")
    jobs, places = [], []
    for place, row in rows:
        if len(row) != len(columns):
            raise usage_error(f"{place}: The row has {len(row)} cells, the header {len(columns)}.")
        jobs.append(
            _job({column: cell for column, cell in zip(columns, row, strict=True) if cell}, inputs)
        )
        places.append(place)
    if not jobs:
        raise usage_error(f"{name} has no rows{' below its header' if columns else ''}.")
    return jobs, places


def _rows(name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each row that is not blank, after a text with the number of its first line.

    The delimiter is the one that divides the header into the most columns.
    """
    text, line = _text_of(name), 1

    def reader(delimiter: str) -> Any:
        return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)

    try:
        rows = reader(max(",;\t", key=lambda separator: len(next(reader(separator), []))))
        for row in rows:
            if row:
                yield f"{name}, line {line}", row
            line = rows.line_num + 1
    except csv.Error as error:
        raise usage_error(
            f"{name}, line {line}: {error}.", "A quote in a quoted cell is written twice."
        ) from None


def _job(cells: Mapping[str, str], inputs: _Inputs) -> dict[str, Any]:
    job: dict[str, Any] = {"parameters": {}, "metadata": {}}
    for column, cell in cells.items():
        if column.startswith(_META):
            job["metadata"][column.removeprefix(_META)] = option_types.note(cell)
        elif column == SEED_AXIS:
            job[SEED_AXIS] = option_types.json_or_text(cell)
        else:
            job["parameters"][column] = inputs.value(column, cell)
    return {key: value for key, value in job.items() if value != {}}
