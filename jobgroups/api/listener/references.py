"""From the names of files in a prompt to references to assets, so that the machine which renders
has the files.

The workflow stays as the program sent it. What replaces a name is a parameter of the job.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings

from backends.errors import RequestError
from jobgroups.api.listener.base import PromptRefused
from jobgroups.domain.access import Principal
from jobgroups.domain.listener_files import IMAGES, file_path, is_of_job, split_annotated
from jobgroups.domain.media_types import media_type
from jobgroups.outputs.copies import copied
from jobgroups.queries.input_files import asset_ids, farm_file, named_file
from jobgroups.queries.outputs import OutputFile
from jobgroups.services.asset_records import output_asset
from jobgroups.services.assets import ReceivedFile, asset_store
from jobgroups.workflow import Workflow
from jobgroups.workflow.assets import CACHE_INPUT, CACHE_NODE, FILE_INPUTS, asset_reference

#: A folder and a path.
Name = tuple[str, str]


def file_references(
    graph: Workflow, *, owner: str, principal: Principal
) -> dict[str, dict[str, Any]]:
    """Return references to the files that a prompt names, by node and input: those that its owner
    uploaded, those of the owner's jobs, assets by their names at the machines, and images that were
    put for it. Other names stay: a machine may have such a file.

    Raises ``PromptRefused`` for a file of a job that cannot be had.
    """
    named = list(_names(graph))
    known = asset_ids(owner, {name for *_, name in named})
    parameters: dict[str, dict[str, Any]] = {}
    for node_id, input_name, name in named:
        if name not in known and name[0] not in ("input", IMAGES) and is_of_job(name[1]):
            try:
                known[name] = _asset_of_job(owner, name, principal)
            except RequestError as error:
                raise _refusal(graph, node_id, input_name, error.detail) from error
        elif name not in known and (asset := farm_file(principal, *name)) is not None:
            known[name] = asset.pk
        if name in known:
            parameters.setdefault(node_id, {})[input_name] = asset_reference(known[name])
    return parameters


def _names(graph: Workflow) -> Iterator[tuple[str, str, Name]]:
    """Yield node id, input and file of each name in an input that takes a file."""
    for node_id, node in graph.items():
        is_cached = node["class_type"] == CACHE_NODE
        for name, value in node["inputs"].items():
            if not isinstance(value, str):
                continue
            if is_cached and name == CACHE_INPUT:
                yield node_id, name, (IMAGES, value)
            elif name in FILE_INPUTS:
                text, folder = split_annotated(value)
                if (path := file_path("", text)) is not None:
                    yield node_id, name, (folder, path)


def _asset_of_job(owner: str, name: Name, principal: Principal) -> str:
    """Return the id of an asset with the content of a job's file; raise ``RequestError``."""
    folder, path = name
    file, _ = named_file(owner, folder, path)
    if not isinstance(file, OutputFile):
        raise RequestError("There is no such file.")
    owner_id = principal.user_id
    if file.stored is not None:
        return output_asset(file.stored, file.filename, owner_id).pk
    copy = async_to_sync(copied)(file, max_bytes=settings.DIRECTOR_MAX_ASSET_BYTES)
    try:
        received = ReceivedFile.of(copy, file.filename, media_type(file.filename))
        return asset_store(received, owner_id=owner_id, is_upload=False)[0].pk
    finally:
        copy.discard()


def _refusal(graph: Mapping[str, Any], node_id: str, input_name: str, reason: str) -> PromptRefused:
    value = graph[node_id]["inputs"][input_name]
    error = {
        "type": "custom_validation_failed",
        "message": "Custom validation failed for node",
        "details": f"{input_name} - Invalid image file: {value}. {reason}",
        "extra_info": {"input_name": input_name, "received_value": value},
    }
    node_errors = {
        node_id: {
            "errors": [error],
            "dependent_outputs": [],
            "class_type": graph[node_id]["class_type"],
        }
    }
    return PromptRefused(
        "prompt_outputs_failed_validation",
        "Prompt outputs failed validation",
        node_errors=node_errors,
    )
