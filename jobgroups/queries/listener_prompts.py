"""Reads prompts of the ComfyUI listener."""

from django.db.models import QuerySet

from jobgroups.models import ListenerPrompt
from jobgroups.queries.groups import open_groups


def open_prompts(owner: str) -> "QuerySet[ListenerPrompt]":
    """Return the prompts of an owner that have not ended, oldest first."""
    return ListenerPrompt.objects.filter(owner=owner, group__in=open_groups()).order_by("id")


def number_of(prompt: ListenerPrompt) -> float:
    """Return the number of a prompt as ComfyUI has it: the lowest is the first in the queue."""
    number = prompt.number
    if number is None:
        return prompt.pk
    return int(number) if number.is_integer() else number
