"""Whether backends can execute a workflow, by their state, their capabilities and their node
classes.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from backends import inventory
from backends.capabilities import lacks_reason, needed_capabilities
from backends.eligibility import capabilities_of, ineligible_reason
from backends.models import Backend, Reachability
from jobgroups.api.backend_selection import candidate_rows
from jobgroups.domain.clock import now
from jobgroups.domain.shapes.backends import CheckReason
from jobgroups.queries.backends import current_backends
from jobgroups.queries.exclusions import excluded_by_digest
from jobgroups.queries.pool import current_estimates
from jobgroups.queries.similar import known_digests
from jobgroups.serializers import to_json
from jobgroups.services.write_start import check_until
from jobgroups.workflow import Workflow, WorkflowTemplate
from jobgroups.workflow.batch import Batch, BatchJob, kinds_of
from jobgroups.workflow.inventory import (
    MAX_REASONS,
    Judge,
    Reason,
    Verdict,
    choices,
    class_types,
    uses_partner_nodes,
)

_CHECK_SECONDS: Final = 10.0  #: Seconds for one check, the probes included.
_FIRST_SHARE: Final = 0.7  #: The share of the time in which backends answer first.
#: Characters of a name of the request in an answer: each may be there for many reasons and
#: backends.
_MAX_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class JobsVerdict:
    """What is known of the jobs of a submission on one backend."""

    reasons: Sequence[Reason] = ()
    #: The kinds that it cannot execute, each with a sentence.
    refused: Mapping[int, str] = field(default_factory=dict)
    is_known: bool = False  #: Every class of the workflow is known.


def check(
    kinds: "JobKinds",
    candidates: Sequence[str],
    required_capabilities: Sequence[str],
    *,
    may_wait: bool = False,
) -> dict[str, Any]:
    """Return for each candidate whether it can execute some jobs, with every reason why not.
    Nothing is stored.

    The candidates and ``may_wait`` are as of ``select_candidates``. The response has an entry for
    each backend, and for each entry of ``candidates`` that no backend has.
    """
    until = check_until(_CHECK_SECONDS)
    rows, unmatched = candidate_rows(candidates, may_wait=may_wait)
    answers = [row for row in rows.values() if row.reachability == Reachability.ONLINE]
    verdicts = kinds.verdicts(answers, until, in_part=True)
    is_paid = has_partner_nodes(kinds.workflow, answers, until=time.monotonic())
    needed = needed_capabilities(required_capabilities, is_paid)
    entries = [
        _entry(name, [CheckReason(code="unavailable", message=sentence)], JobsVerdict(), until)
        for name, sentence in unmatched.items()
    ]
    for row in rows.values():
        reasons = []
        if state_reason := ineligible_reason(row, (), now=now()):
            reasons.append(CheckReason(code="unavailable", message=state_reason))
        if lacks := lacks_reason(capabilities_of(row), needed):
            reasons.append(CheckReason(code="capability_missing", message=lacks))
        if row.id in kinds.excluded:
            reasons.append(CheckReason(code="excluded", message=kinds.excluded[row.id]))
        verdict = verdicts.get(row.id, JobsVerdict())
        entries.append(_entry(row.id, reasons, verdict, until))
        if kinds.is_batch:
            refused = kinds.refused(row.id, verdict)
            able = 0 if reasons else sum(kind not in refused for kind in kinds.of_job)
            entries[-1] |= {"can_run": able > 0, "jobs": able}
    for entry in entries if kinds.is_batch else ():
        entry.setdefault("jobs", 0)
    return {"backends": entries, "can_run": sum(entry["can_run"] for entry in entries)}


class JobKinds:
    """The different jobs of a submission, as backends distinguish them; without a batch they are
    all equal.
    """

    def __init__(self, prepared: WorkflowTemplate, batch: Batch | None = None) -> None:
        self.workflow = prepared.workflow
        self.is_batch = batch is not None
        if batch is None:
            self.of_job, self.examples, digests = [0], [BatchJob(0, None)], [prepared.digests[0]]
        else:
            self.of_job, self.examples = kinds_of(batch.jobs)
            of_kind = dict(zip(reversed(self.of_job), reversed(batch.variant_of), strict=True))
            digests = [batch.variants[of_kind[kind]][0] for kind in range(len(self.examples))]
        self._changes = [job.values for job in self.examples]
        excluded = excluded_by_digest(set(digests))
        self._excluded = [excluded.get(digest, {}) for digest in digests]
        #: Backends that are excluded for all of them, each with a sentence.
        self.excluded = {
            name: reason
            for name, reason in self._excluded[0].items()
            if all(name in reasons for reasons in self._excluded)
        }

    def refusals(
        self, rows: Collection[Backend], *, until: float, in_part: bool
    ) -> dict[str, dict[int, str]]:
        """Return the kinds that some responding backends certainly cannot execute, each with a
        sentence.

        It stops at ``until``, by ``time.monotonic``. ``in_part``: it suffices if ComfyUI executes
        some outputs.
        """
        verdicts = self.verdicts(rows, until, in_part=in_part, kept_for=inventory.KEPT_SECONDS)
        return {name: self.refused(name, verdict) for name, verdict in verdicts.items()}

    def refused(self, backend_id: str, verdict: JobsVerdict) -> dict[int, str]:
        """Return the kinds that a backend cannot execute, by its verdict and by earlier failures."""
        excluded = {
            kind: reasons[backend_id]
            for kind, reasons in enumerate(self._excluded)
            if backend_id in reasons
        }
        return {**excluded, **verdict.refused}

    def describe_job(self, kind: int) -> str:
        """Return the first job of a kind for a sentence."""
        variation = to_json(self.examples[kind].variation)
        more = "…" if len(variation) > _MAX_NAME else ""
        return f"Job {self.of_job.index(kind)} {variation[:_MAX_NAME]}{more}"

    def verdicts(
        self,
        rows: Collection[Backend],
        until: float,
        *,
        in_part: bool,
        kept_for: float = inventory.FRESH_SECONDS,
    ) -> dict[str, JobsVerdict]:
        """Return what is known of backends, by id, from answers that are at most ``kept_for``
        seconds old.
        """
        start = time.monotonic()
        known = inventory.node_classes(
            dict.fromkeys(rows, class_types(self.workflow)),
            since=start - kept_for,
            # A silent backend must leave time for the verdicts on the others.
            until=start + _FIRST_SHARE * (until - start),
        )
        verdicts = {name: self._judge(classes, until, in_part) for name, classes in known.items()}
        # A file may be newer than a kept answer: what speaks against a backend is read again.
        doubted = {
            row: {reason.class_type for reason in verdicts[row.id].reasons}
            for row in rows
            if verdicts[row.id].reasons
        }
        again = inventory.node_classes(doubted, since=start, until=until)
        for row, doubtful in doubted.items():
            classes = {
                name: node_class
                for name, node_class in known[row.id].items()
                if name not in doubtful
            } | again[row.id]
            verdicts[row.id] = self._judge(classes, until, in_part)
        return verdicts

    def _judge(self, classes: inventory.Classes, until: float, in_part: bool) -> JobsVerdict:
        """Return a verdict; large workflows, and many jobs and backends, may take longer than there
        is time.
        """
        if time.monotonic() >= until:
            return JobsVerdict()
        judge = Judge(self.workflow, classes)
        reasons: dict[tuple[str, str | None, str], Reason] = {}
        refused: dict[int, str] = {}
        verdict = Verdict()
        for kind, changes in enumerate(self._changes):
            verdict = judge.verdict(changes)
            for reason in verdict.reasons:
                if len(reasons) < MAX_REASONS:
                    reasons.setdefault((reason.node_id, reason.input, reason.message), reason)
            if verdict.is_refused or (verdict.reasons and not in_part):
                refused[kind] = _sentence(verdict.reasons)
            if time.monotonic() >= until:
                break
        return JobsVerdict(tuple(reasons.values()), refused, verdict.is_known)


def has_partner_nodes(graph: Workflow, rows: Collection[Backend], *, until: float) -> bool | None:
    """Return whether responding backends mark a node of a workflow as a partner's; None: not known.

    What is not answered by ``until``, by ``time.monotonic``, is not known.
    """
    known = _known_classes(graph, rows, until, inventory.KEPT_SECONDS)
    partner_classes = (
        {name: node_class.is_partner for name, node_class in classes.items() if node_class}
        for classes in known.values()
    )
    return uses_partner_nodes(graph, partner_classes)


def offered_choices(prepared: WorkflowTemplate, backend_ids: Collection[str]) -> dict[str, Any]:
    """Return the choices of a workflow's inputs, and its usual time or that of the most similar
    one, at backends that a check has just read.
    """
    rows = [row for row in current_backends().values() if row.id in backend_ids]
    known = _known_classes(prepared.workflow, rows, time.monotonic(), inventory.FRESH_SECONDS)
    estimates = current_estimates()
    (digest,) = known_digests(prepared.digests[:1], lambda _: prepared, estimates)
    times = [
        seconds
        for backend_id in backend_ids
        if (seconds := estimates.seconds(digest, backend_id)) is not None
    ]
    usual = round(median(times), 1) if times else None
    return choices(prepared.workflow, list(known.values())) | {"usual_seconds": usual}


def _known_classes(
    graph: Workflow, rows: Collection[Backend], until: float, kept_for: float
) -> dict[str, inventory.Classes]:
    since = time.monotonic() - kept_for
    return inventory.node_classes(dict.fromkeys(rows, class_types(graph)), since=since, until=until)


def _sentence(reasons: Sequence[Reason]) -> str:
    first = reasons[0]
    more = f"; and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    node = f"{first.node_id[:_MAX_NAME]} ({first.class_type[:_MAX_NAME]})"
    return f"Cannot run the workflow: node {node}: {first.message}{more}"


def _entry(
    backend_id: str, reasons: Sequence[CheckReason], verdict: JobsVerdict, until: float
) -> dict[str, Any]:
    of_nodes = [
        CheckReason(
            code=reason.code.value,
            message=reason.message,
            node_id=reason.node_id[:_MAX_NAME],
            class_type=reason.class_type[:_MAX_NAME],
            input=reason.input and reason.input[:_MAX_NAME],
            # Long lists are slow to compare.
            nearest=tuple(reason.nearest()) if time.monotonic() < until else (),
        )
        for reason in verdict.reasons
    ]
    unavailable = (reason.message for reason in reasons if reason.code == "unavailable")
    return {
        "backend_id": backend_id,
        "can_run": not reasons and not verdict.refused,
        "known": verdict.is_known,
        "state_reason": next(unavailable, None),
        "reasons": [*reasons, *of_nodes],
    }
