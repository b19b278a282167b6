"""Batches: the jobs of a ``jobs`` list or of a ``sweep``, each with inputs of its own.

The template is that of the group, with its parameters set. Unlike a parameter of the group, an
input of a job that matches nothing is an error.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from jobgroups.workflow.assets import FILE_INPUTS, referenced_asset
from jobgroups.workflow.digest import CONTENT_INPUTS, MODEL_FILES, is_content, plain
from jobgroups.workflow.graph import WorkflowCopy, is_integer
from jobgroups.workflow.parameters import SEED_INPUTS, ParameterInvalid, Target, Targets
from jobgroups.workflow.seeds import MAX_SEED, SeedStrategy, seeds
from jobgroups.workflow.template import WorkflowTemplate, changed
from jobgroups.workflow.validation import shown_key

MAX_JOBS: Final = 10_000  #: The most jobs of one submission to the pool.
MAX_AXES: Final = 10
MAX_SWEEP_BYTES: Final = 16 * 2**20  #: Of all variations of a sweep, as JSON.
MAX_VARIANTS: Final = 256
SEED_AXIS: Final = "seed"
_MAX_ERRORS: Final = 10  #: Of many wrong values, the first are reported.
#: Each variant is digested, which takes about 10 µs for each node.
_MOST_DIGESTED: Final = 50_000
_NOT_EMPTY: Final = "Must have at least one entry."
_SEED: Final = f"Must be an integer from 0 to {MAX_SEED} (2⁵³−1), which every client reads exactly."


class BatchInvalid(Exception):
    """Some jobs or axes are wrong; ``errors`` has a path and a sentence for each of the first."""

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        super().__init__(errors)
        self.errors = errors


class Setting(NamedTuple):
    """One value of a job, and the inputs that get it."""

    target: Target
    value: Any


#: A workflow's digest and that of its models.
VariantKey: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class BatchJob:
    """One job of a batch."""

    seed: int
    variation: Mapping[str, Any] | None  #: As parameters; None: it differs by its seed alone.
    metadata: Mapping[str, Any] | None = None
    #: What its variation sets, in the order in which it is applied.
    settings: Sequence[Setting] = ()

    @property
    def values(self) -> dict[tuple[str, str], Any]:
        """The inputs that it sets: (node id, name) → value."""
        return {slot: value for target, value in self.settings for slot in target.slots}


@dataclass(frozen=True, slots=True)
class Batch:
    """The jobs of a submission, in order. Without variations they are one variant."""

    jobs: Sequence[BatchJob]
    variant_of: Sequence[int]  #: The variant of each job, as a number.
    variants: Sequence[VariantKey]
    sweep: Mapping[str, Any] | None = None  #: The axes with all their values.
    #: The assets that jobs refer to, each with a path.
    assets: Mapping[str, str] = field(default_factory=dict)


def jobs_of(
    template: WorkflowTemplate, entries: Any, strategy: str, base_seed: int, max_metadata: int
) -> Batch:
    """Return the jobs of a ``jobs`` list. ``max_metadata``: bytes of the metadata of one as JSON.

    Raises ``BatchInvalid``.
    """
    if not isinstance(entries, list):
        raise BatchInvalid([("jobs", "Must be a list of objects.")])
    if not 1 <= len(entries) <= MAX_JOBS:
        raise BatchInvalid(
            [("jobs", f"Must have at most {MAX_JOBS} entries." if entries else _NOT_EMPTY)]
        )
    checks = _Checks(template)
    dealt = seeds(SeedStrategy(strategy), base_seed, len(entries))
    jobs = []
    for number, (entry, seed) in enumerate(zip(entries, dealt, strict=True)):
        path = f"jobs.{number}"
        if not checks.has_keys(entry, path, ("parameters", "seed", "metadata"), "a job"):
            continue
        variation, own_seed, metadata = (
            entry.get(name) for name in ("parameters", "seed", "metadata")
        )
        for name, value in (("parameters", variation), ("metadata", metadata)):
            if value is not None and not isinstance(value, dict):
                checks.add(f"{path}.{name}", "Must be an object.")
                variation = None
        if own_seed is not None and not _is_seed(own_seed):
            checks.add(f"{path}.seed", _SEED)
        if metadata is not None and len(_json(metadata).encode()) > max_metadata:
            checks.add(f"{path}.metadata", f"Must have at most {max_metadata} bytes as JSON.")
        settings = checks.settings(variation or {}, f"{path}.parameters")
        jobs.append(
            BatchJob(seed if own_seed is None else own_seed, variation or None, metadata, settings)
        )
    checks.raise_errors()
    return Batch(jobs, *variants_of(template, jobs), assets=checks.assets)


def sweep_of(template: WorkflowTemplate, sweep: Any, strategy: str | None, base_seed: int) -> Batch:
    """Return the jobs of a ``sweep``; of a product, the first axis changes slowest.

    Without an axis of seeds, all have the base seed, or with a ``strategy`` each its own. Raises
    ``BatchInvalid``.
    """
    checks = _Checks(template)
    mode, axes = "product", []
    if checks.has_keys(sweep, "sweep", ("mode", "axes"), "a sweep"):
        mode = sweep.get("mode") or mode
        axes = checks.axes(
            sweep.get("axes"), SeedStrategy(strategy or SeedStrategy.RANDOM), base_seed
        )
        if mode not in ("product", "zip"):
            checks.add("sweep.mode", "Must be one of product, zip.")
    checks.raise_errors()
    lengths = [len(axis.points) for axis in axes]
    total = lengths[0] if mode == "zip" else math.prod(lengths)
    if mode == "zip" and len(set(lengths)) > 1:
        raise BatchInvalid(
            [
                (
                    "sweep.axes",
                    f"Must be equally long with zip; they have {', '.join(map(str, lengths))} "
                    "values.",
                )
            ]
        )
    if total > MAX_JOBS:
        product = (
            f"{' × '.join(map(str, lengths))} = " if len(lengths) > 1 and mode == "product" else ""
        )
        raise BatchInvalid([("sweep.axes", f"{product}{total:,} jobs; at most {MAX_JOBS:,}.")])
    size = sum(total // len(axis.points) * axis.size for axis in axes)
    if size > MAX_SWEEP_BYTES:
        raise BatchInvalid(
            [
                (
                    "sweep.axes",
                    f"The variations have {size:,} bytes as JSON; at most {MAX_SWEEP_BYTES:,}.",
                )
            ]
        )
    dealt = seeds(SeedStrategy(strategy), base_seed, total) if strategy else [base_seed] * total
    rows = (zip if mode == "zip" else itertools.product)(*(axis.points for axis in axes))
    jobs = [_job_at(row, seed) for row, seed in zip(rows, dealt, strict=True)]
    stored = [
        {"input": axis.input, "values": [point.value for point in axis.points]} for axis in axes
    ]
    return Batch(jobs, *variants_of(template, jobs), {"mode": mode, "axes": stored}, checks.assets)


def variants_of(
    template: WorkflowTemplate, jobs: Sequence[BatchJob]
) -> tuple[list[int], list[VariantKey]]:
    """Return the variant of each job as a number, and the digests of each variant.

    A variant has the jobs with equal digests. If there were too many, varied numbers count with the
    value of the template, then all but the names of models, then everything.
    """
    most = max(1, min(MAX_VARIANTS, _MOST_DIGESTED // max(len(template.workflow), 1)))
    tokens: list[tuple[Any, ...]] = []
    for token_of in _TOKENS:
        tokens = [
            tuple(
                [
                    (setting.target, token)
                    for setting in job.settings
                    if (token := token_of(setting)) is not None
                ]
            )
            for job in jobs
        ]
        if len(set(tokens)) <= most:
            break
    numbers: dict[VariantKey, int] = {}
    number_of: dict[tuple[Any, ...], int] = {}
    for key, job in zip(tokens, jobs, strict=True):
        if key not in number_of:
            counted = [setting for setting in job.settings if token_of(setting) is not None]
            digests = template_of(template, counted).digests
            number_of[key] = numbers.setdefault(digests, len(numbers))
    return [number_of[key] for key in tokens], list(numbers)


def kinds_of(jobs: Sequence[BatchJob]) -> tuple[list[int], list[BatchJob]]:
    """Return the kind of each job as a number, and the first job of each: no backend distinguishes
    jobs of one kind.

    Texts of content count only where they may name a file.
    """
    numbers: dict[tuple[Any, ...], int] = {}
    examples: list[BatchJob] = []
    kinds = []
    for job in jobs:
        key = tuple(
            [
                (setting.target, repr(setting.value))
                for setting in job.settings
                if not _is_free_text(setting)
            ]
        )
        kinds.append(numbers.setdefault(key, len(numbers)))
        if len(numbers) > len(examples):
            examples.append(job)
    return kinds, examples


def _is_free_text(setting: Setting) -> bool:
    name = setting.target.name
    return name in SEED_INPUTS or (
        name not in FILE_INPUTS
        and isinstance(setting.value, str)
        and is_content(name, setting.value)
    )


def template_of(template: WorkflowTemplate, settings: Sequence[Setting]) -> WorkflowTemplate:
    """Return the template of a job with some settings."""
    if not settings:
        return template
    copy = WorkflowCopy(template.workflow)
    for target, value in settings:
        for node_id in target.node_ids:
            copy.set(node_id, target.name, value)
    return changed(
        template,
        copy,
        {slot for target, _ in settings if target.is_addressed for slot in target.slots},
    )


def variation_assets(variation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield input and asset id of each reference in a variation."""
    for name, value in variation.items():
        if (asset_id := referenced_asset(value)) is not None:
            yield name, asset_id
        elif isinstance(value, dict):
            yield from variation_assets(value)


class _Point(NamedTuple):
    """One value of an axis."""

    input: str
    value: Any
    settings: Sequence[Setting]


class _Axis(NamedTuple):
    input: str
    points: list[_Point]
    size: int  #: Bytes of all its points in variations, as JSON.


def _job_at(row: Sequence[_Point], seed: int) -> BatchJob:
    variation = {point.input: point.value for point in row if point.input != SEED_AXIS}
    seed = next((point.value for point in row if point.input == SEED_AXIS), seed)
    return BatchJob(
        seed,
        variation or None,
        settings=tuple(setting for point in row for setting in point.settings),
    )


class _Checks:
    """Checks what a batch sets in a workflow, and collects errors and references."""

    def __init__(self, template: WorkflowTemplate) -> None:
        self._template = template
        self._targets = Targets(template.workflow)
        self._errors: list[tuple[str, str]] = []
        self.assets: dict[str, str] = {}

    def add(self, path: str, message: str) -> None:
        self._errors.append((path, message))
        if len(self._errors) == _MAX_ERRORS:
            self.raise_errors()

    def raise_errors(self) -> None:
        if self._errors:
            raise BatchInvalid(self._errors)

    def has_keys(self, value: Any, path: str, known: Sequence[str], what: str) -> bool:
        """Return whether a value is an object; add an error for each other key."""
        if not isinstance(value, dict):
            self.add(path, "Must be an object.")
            return False
        for name in value.keys() - set(known):
            self.add(f"{path}.{shown_key(name)}", f"Is not a field of {what}.")
        return True

    def settings(
        self, parameters: Mapping[str, Any], path: str, input_path: str | None = None
    ) -> tuple[Setting, ...]:
        """Return what parameters set. ``input_path`` is the path of errors of an input, and
        ``path`` that of its value.
        """
        settings = []
        try:
            for keys, target, value in self._targets.read(parameters):
                settings.append(Setting(target, value))
                wrong, asset_id = target.problem or target.mismatch(value), referenced_asset(value)
                if not wrong and asset_id is None:
                    continue
                # Made for few values: it takes longer than the checks.
                error_path = path if input_path else ".".join([path, *map(shown_key, keys)])
                if wrong:
                    self.add(
                        (target.problem and input_path) or error_path, wrong[0].upper() + wrong[1:]
                    )
                if asset_id is not None:
                    self.assets.setdefault(asset_id, error_path)
        except ParameterInvalid as error:
            self.add(input_path or f"{path}{error.field.removeprefix('parameters')}", error.message)
        settings.sort(key=lambda setting: setting.target.is_addressed)
        return tuple(settings)

    def axes(self, given: Any, strategy: SeedStrategy, base_seed: int) -> list[_Axis]:
        if not isinstance(given, list) or not 1 <= len(given) <= MAX_AXES:
            self.add("sweep.axes", f"Must be a list of 1 to {MAX_AXES} axes.")
            return []
        owners: dict[tuple[str, str], int] = {}
        axes = []
        for number, entry in enumerate(given):
            path = f"sweep.axes.{number}"
            if not self.has_keys(entry, path, ("input", "values", "count"), "an axis"):
                continue
            name, values, count = (entry.get(key) for key in ("input", "values", "count"))
            if not isinstance(name, str):
                self.add(f"{path}.input", "Must be the name of an input.")
            elif count is not None and (name != SEED_AXIS or values is not None):
                self.add(
                    f"{path}.count", f"Is for the axis {SEED_AXIS} alone, in the place of values."
                )
            elif count is not None:
                if is_integer(count) and 1 <= count <= MAX_JOBS:
                    axes.append(
                        self._axis(name, seeds(strategy, base_seed, count), path, owners, number)
                    )
                else:
                    self.add(f"{path}.count", f"Must be an integer from 1 to {MAX_JOBS}.")
            elif not isinstance(values, list) or not values:
                self.add(
                    f"{path}.values", _NOT_EMPTY if values == [] else "Must be a list of values."
                )
            else:
                axes.append(self._axis(name, values, path, owners, number))
        return axes

    def _axis(
        self,
        name: str,
        values: Sequence[Any],
        path: str,
        owners: dict[tuple[str, str], int],
        number: int,
    ) -> _Axis:
        is_seed, known = name == SEED_AXIS, len(self._errors)
        points, size = [], 0
        for at, value in enumerate(values):
            if is_seed and not _is_seed(value):
                self.add(f"{path}.values.{at}", _SEED)
            settings = (
                ()
                if is_seed
                else self.settings({name: value}, f"{path}.values.{at}", f"{path}.input")
            )
            if any(setting.target.problem for setting in settings):
                break  # no value can be set
            points.append(_Point(name, value, settings))
            size += 0 if is_seed else len(_json({name: value}).encode())
        targets = dict.fromkeys(setting.target for point in points for setting in point.settings)
        # Two axes of seeds are refused also if the workflow has no seed.
        slots = (
            [*self._template.seed_slots, ("", SEED_AXIS)]
            if is_seed
            else [s for target in targets for s in target.slots]
        )
        other = next((slot for slot in slots if owners.setdefault(slot, number) != number), None)
        if other is not None and len(self._errors) == known:
            of_node = f" of node {shown_key(other[0])}" if other[0] else ""
            both = f"Axis {owners[other]} sets this input, too: {shown_key(other[1])}{of_node}."
            self.add(f"{path}.input", f"{both} Remove one of them.")
        return _Axis(name, points, size)


def _is_seed(value: Any) -> bool:
    return is_integer(value) and 0 <= value <= MAX_SEED


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _whole(setting: Setting) -> Any:
    """Return what of a setting counts for the digests, None if nothing does."""
    name, value = setting.target.name, setting.value
    if (model := _model(setting)) is not None:
        return model
    if name in SEED_INPUTS or (is_content(name, value) and name in CONTENT_INPUTS):
        return None
    if is_content(name, value):
        return ()  # It takes the place of a value that counts.
    return value if isinstance(value, str) else (_json(plain(value)),)


def _without_numbers(setting: Setting) -> Any:
    is_number = isinstance(setting.value, int | float) and not isinstance(setting.value, bool)
    return None if is_number else _whole(setting)


def _model(setting: Setting) -> str | None:
    value = setting.value
    return value if isinstance(value, str) and value.lower().endswith(MODEL_FILES) else None


_TOKENS: Final[Sequence[Callable[[Setting], Any]]] = (
    _whole,
    _without_numbers,
    _model,
    lambda _: None,
)
