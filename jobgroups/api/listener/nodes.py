"""What the machines have, as of one machine: ``/object_info``, ``/models``, ``/embeddings``."""

import gzip
import hashlib
import mimetypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils.cache import get_conditional_response, patch_vary_headers
from rest_framework.request import Request

from backends import descriptions
from backends.descriptions import FarmNodes
from backends.node_union import unique, with_more_choices
from jobgroups.api.listener.base import ListenerView, error_response
from jobgroups.api.listener.images import loras_arrive
from jobgroups.api.listener.owner import owner_of
from jobgroups.api.views.base import json_response
from jobgroups.database.pools import machine_threads
from jobgroups.errors import NoMachine
from jobgroups.queries.input_files import uploaded_names
from jobgroups.queries.listener_machine import usable_backends

_SECONDS: Final = 15.0  #: For which machines that are not known yet are waited for.
_COMPRESSED_LEVEL: Final = 5
#: Whole answers that are kept compressed: that without uploads, and those of owners with some.
_MAX_COMPRESSED: Final = 8
#: Of the flag of an input, the kinds of files that ComfyUI lists; other flags: every kind.
_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "image_upload": ("image",),
    "audio_upload": ("audio", "video"),
    "video_upload": ("video",),
}


def farm_nodes() -> FarmNodes:
    """Return the node classes of the machines; raise ``NoMachine`` if no machine describes them."""
    rows = usable_backends()
    known = descriptions.nodes.get(rows, within=_SECONDS)
    if not known:
        raise NoMachine
    return descriptions.farm_nodes(rows, known)


class ObjectInfoView(ListenerView):
    reads_in = machine_threads  # It may wait for machines.

    def get(self, request: Request, class_type: str | None = None) -> HttpResponse:
        owner = owner_of(request)
        # Krita reads this after a LoRA, whose answer it does not wait for.
        loras_arrive(owner)
        farm, names = farm_nodes(), tuple(uploaded_names(owner))
        if class_type is None:
            return _whole(request, farm, names)
        described = _changed(farm, names, [class_type]).get(class_type)
        if described is None and class_type in farm.classes:
            described = farm.classes[class_type].text
        pairs = {} if described is None else {class_type: msgspec.Raw(described)}
        return HttpResponse(msgspec.json.encode(pairs), content_type="application/json")


def _whole(request: Any, farm: FarmNodes, names: tuple[str, ...]) -> HttpResponse:
    of_names = hashlib.sha256("\0".join(names).encode()).hexdigest()[:16] if names else ""
    etag = f'W/"{farm.digest}{of_names}"'
    response: HttpResponse | None = get_conditional_response(request, etag=etag)
    if response is None:
        if _takes_gzip(request):
            body = _compressed(farm, names)
            response = HttpResponse(body, content_type="application/json")
            response.headers["Content-Encoding"] = "gzip"
        else:
            body = farm.body(_changed(farm, names, farm.with_uploads))
            response = HttpResponse(body, content_type="application/json")
    response.headers["ETag"] = etag
    # A program reads it again after an upload, or a new model.
    response.headers["Cache-Control"] = "no-cache"
    patch_vary_headers(response, ["Accept-Encoding"])
    return response


def _takes_gzip(request: HttpRequest | Request) -> bool:
    return "gzip" in request.headers.get("Accept-Encoding", "")


@lru_cache(_MAX_COMPRESSED)
def _compressed(farm: FarmNodes, names: tuple[str, ...]) -> bytes:
    body = farm.body(_changed(farm, names, farm.with_uploads))
    return gzip.compress(body, _COMPRESSED_LEVEL, mtime=0)


def _changed(farm: FarmNodes, names: Sequence[str], class_types: Iterable[str]) -> dict[str, bytes]:
    """Return the descriptions of some classes with an owner's uploads among their choices."""
    wanted = farm.with_uploads.intersection(class_types) if names else ()
    more = _choices_of(names)
    return {
        name: msgspec.json.encode(with_more_choices(farm.classes[name].value, more))
        for name in wanted
    }


def _choices_of(names: Sequence[str]) -> Callable[[frozenset[str]], Iterable[str]]:
    def more(flags: frozenset[str]) -> Iterable[str]:
        kinds = {kind for flag in flags for kind in _KINDS.get(flag, ())}
        return [name for name in names if not kinds or _kind_of(name) in kinds]

    return more


def _kind_of(name: str) -> str:
    return (mimetypes.guess_type(name)[0] or "").partition("/")[0]


class _ListView(ListenerView):
    reads_in = machine_threads  # It may wait for machines.

    def answer(self, path: str, key: Callable[[Any], Any] | None = None) -> HttpResponse:
        """Answer with the entries of all machines' lists at a path; 404 if no machine has one.

        ``key`` returns what distinguishes two entries; None: all of them are texts.
        """
        listed = descriptions.lists.get(usable_backends(), path, within=_SECONDS).values()
        if not listed:
            raise NoMachine
        found = [entries for one in listed if isinstance(entries := one.value, list)]
        if not found:
            return error_response(404, "not_found", "No machine has this folder of models.")
        if key is None:
            return json_response(sorted(unique(found), key=str))
        entries = (entry for of_machine in found for entry in of_machine)
        return json_response(list({key(entry): entry for entry in entries}.values()))


class EmbeddingsView(_ListView):
    def get(self, _request: Request) -> HttpResponse:
        return self.answer("/embeddings")


class ModelsView(_ListView):
    def get(self, _request: Request, folder: str | None = None) -> HttpResponse:
        """Return the folders of models, or the files of one."""
        return self.answer("/models" if folder is None else f"/models/{quote(folder, safe='')}")


class ModelFilesView(_ListView):
    def get(self, _request: Request, folder: str | None = None) -> HttpResponse:
        """Return the same with paths, sizes and times, of the last machine that has an entry."""
        path = "/experiment/models" + ("" if folder is None else f"/{quote(folder, safe='')}")
        return self.answer(path, _name_of)


def _name_of(entry: Any) -> str:
    return str(entry.get("name")) if isinstance(entry, dict) else repr(entry)
