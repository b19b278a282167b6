"""Stores the claims of many backends in one transaction.

This is the plain case, and the conditions here and in ``store.claims`` define it. A claim that they
leave out is stored by ``claims.child_claim``, alone: each rare case has one place.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db import transaction

from backends.eligibility import capabilities_of
from jobgroups.database.keys import places, read
from jobgroups.database.retry import retry_on_conflict
from jobgroups.database.statements import PreparedValues, insert_with_keys
from jobgroups.domain.pool import OpenVariant, fits
from jobgroups.errors import SetRefused
from jobgroups.models import Attempt, Exclusion
from jobgroups.queries.exclusions import ACTIVE, valid_since
from jobgroups.services.claims import ClaimRequest, ClaimResult, new_attempt
from jobgroups.services.leases import valid_fences
from jobgroups.store import claims as store


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a backend is to claim: its oldest bound child, or a child of a variant of the pool."""

    group_id: str
    child_id: str | None = None
    variant: OpenVariant | None = None


@retry_on_conflict
def claims_store(*, requests: Sequence[ClaimRequest]) -> dict[ClaimRequest, ClaimResult]:
    """Store the plain claims of some requests, each of another backend, in one transaction.

    Returns what ``child_claim`` would return. A request that turns out not to be plain has no
    result, and is left to it. After an error nothing is stored, and all are.
    """
    results: dict[ClaimRequest, ClaimResult] = {}
    # Before the transaction: most of a farm's backends have no queued child, and this runs often.
    wanted = _wanted([request for request in requests if not request.withheld], results)
    if wanted:
        with transaction.atomic():
            results |= _claim(wanted)
    return results


def _wanted(
    requests: Sequence[ClaimRequest], results: dict[ClaimRequest, ClaimResult]
) -> dict[ClaimRequest, _Wanted]:
    """Return what each request is to claim; where nothing is queued, set the result."""
    of_backends = {request.fence.backend_id: request for request in requests}
    bound = store.oldest_bound(
        [
            backend_id
            for backend_id, request in of_backends.items()
            if not request.has_only_pool_first
        ],
        held={group_id for request in requests for group_id in request.held},
    )
    named: dict[str, list[str]] = defaultdict(list)
    for backend_id, child in bound.items():
        first = of_backends[backend_id].bound_first
        if first and child.group_id != first:
            named[first].append(backend_id)
    for group_id, backend_ids in named.items():
        bound |= store.oldest_bound(backend_ids, group_id)
    wanted = {}
    for backend_id, request in of_backends.items():
        oldest = bound.get(backend_id)
        if (choice := request.choice_before(oldest)) is not None:
            wanted[request] = _Wanted(choice.variant.group_id, variant=choice.variant)
        elif oldest is not None:
            wanted[request] = _Wanted(oldest.group_id, child_id=oldest.child_id)
        else:
            results[request] = ClaimResult()
    return wanted


def _claim(wanted: Mapping[ClaimRequest, _Wanted]) -> dict[ClaimRequest, ClaimResult]:
    fences = valid_fences({request.fence for request in wanted})
    groups = store.groups_sent({what.group_id for what in wanted.values()})
    unclaimed = store.unclaimed_groups_locked(
        {group.id for group in groups.values() if not group.has_claimed_child}
    )
    prompts = store.backends_locked({fence.backend_id for fence in fences})
    plain = {
        request: what
        for request, what in wanted.items()
        if request.fence in fences
        and prompts.get(request.fence.backend_id, request.depth) < request.depth
        and (group := groups.get(what.group_id)) is not None
        and not group.is_limited
        and (group.has_claimed_child or group.id in unclaimed)
    }
    children = {**_bound_children(plain), **dict(_children_of_pool(plain))}
    results = {}
    # In the order of the requests.
    for request in [request for request in plain if request in children]:
        child = children[request]
        child.group = groups[child.group_id]
        attempt = new_attempt(child, child.last_number, request)
        is_chosen = plain[request].variant is not None
        results[request] = ClaimResult(attempt, from_pool=is_chosen)
    if attempts := [result.claim for result in results.values() if result.claim is not None]:
        _store(attempts, unclaimed)
    return results


def _store(attempts: Sequence[Attempt], unclaimed: Collection[str]) -> None:
    insert_with_keys(attempts, by="prompt_id")
    rows = [(attempt.child_id, attempt.pk, attempt.backend_id) for attempt in attempts]
    if len(store.bind(rows)) != len(rows):
        raise SetRefused("A claimed job was moved meanwhile.")
    store.note_first_claims({attempt.child.group_id for attempt in attempts} & set(unclaimed))


def _bound_children(plain: Mapping[ClaimRequest, _Wanted]) -> dict[ClaimRequest, Any]:
    """Lock the bound children that are still claimable."""
    ids = {request: what.child_id for request, what in plain.items() if what.child_id is not None}
    rows = store.children_locked(ids.values())
    children = {request: rows[child_id] for request, child_id in ids.items() if child_id in rows}
    # It may have been moved to another backend since it was found.
    return {
        request: child
        for request, child in children.items()
        if child.backend_id == request.fence.backend_id
    }


def _children_of_pool(plain: Mapping[ClaimRequest, _Wanted]) -> Iterator[tuple[ClaimRequest, Any]]:
    """Lock children of the variants that backends chose, one for each; yield those that any backend
    may take.
    """
    chosen = {request: what.variant for request, what in plain.items() if what.variant is not None}
    of_variants: dict[int, list[ClaimRequest]] = defaultdict(list)
    for request in _fitting(chosen):
        of_variants[chosen[request].variant_id].append(request)
    for variant_id, requests in of_variants.items():
        children = store.first_of_variant_locked(variant_id, len(requests))
        if all(child.last_number is None for child in children):
            yield from zip(requests, children, strict=False)


def _fitting(chosen: Mapping[ClaimRequest, OpenVariant]) -> Iterator[ClaimRequest]:
    """Yield the requests whose backends fit their variants, by the locked rows of the backends."""
    if not chosen:
        return
    backend_ids = {request.fence.backend_id for request in chosen}
    rows = store.capable_backends(backend_ids)
    excluded = set(read(_excluded, backend_ids, **valid_since()))
    for request, variant in chosen.items():
        row = rows[request.fence.backend_id]
        cannot = {(row.id, variant.workflow_digest, of) for of in (0, variant.variant_id)}
        if not cannot & excluded and fits(variant.needs, row.id, capabilities_of(row)):
            yield request


@cache
def _excluded(size: int) -> PreparedValues:
    return PreparedValues(
        lambda: (
            Exclusion.objects.filter(ACTIVE, backend__id__in=places(size))
            .order_by()
            .values_list("backend_id", "workflow_digest", "variant_id")
        )
    )
