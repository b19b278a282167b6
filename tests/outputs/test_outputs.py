from typing import Any

import pytest

from backends.models import Backend
from backends.services import backend_update
from jobgroups.domain import media_types
from tests.api.conftest import error_of
from tests.harness.farm import in_thread
from tests.outputs.conftest import Gallery, body, fetched, file, picture

pytestmark = pytest.mark.django_db(transaction=True)


async def test_image_is_served_unchanged_to_get_and_head_and_304_to_a_client_that_has_it(gallery: Gallery) -> None:
    original = picture()
    url = await gallery.one("a b.png", original)
    answer = await gallery.get(url)
    assert answer.status_code == 200
    assert await body(answer) == original
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Content-Length"] == str(len(original))
    assert answer.headers["Content-Disposition"].startswith('inline; filename="7_gpu-1_a b.png"')
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    again = await gallery.get(url, If_None_Match=answer.headers["ETag"])
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == answer.headers["ETag"]
    changed = await gallery.get(url, If_None_Match='"other"')
    assert changed.status_code == 200
    assert await body(changed) == original
    head = await gallery.client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(original))
    refused = await gallery.client.post(url)
    error_of(refused, 405, "method_not_allowed")
    assert "GET" in refused.headers["Allow"]


async def test_files_are_numbered_images_first(gallery: Gallery) -> None:
    for name in ("clip.mp4", "one.png", "two.png"):
        gallery.put(name, name.encode())
    reported = {"gifs": [file("clip.mp4")], "images": [file("one.png"), file("two.png")]}
    group, (job,) = await gallery.done(reported)
    found = [
        await body(await gallery.get(f"/api/job-groups/{group}/jobs/{job}/outputs/{number}")) for number in range(3)
    ]
    assert found == [b"one.png", b"two.png", b"clip.mp4"]
    error_of(await gallery.get(f"/api/job-groups/{group}/jobs/{job}/outputs/3"), 404, "output_not_found")


async def test_only_reported_files_are_served(gallery: Gallery) -> None:
    gallery.put("secret.png", picture())
    url = await gallery.one("mine.png", picture())
    for path in ("-1", "secret.png", "0x0", "1"):
        assert (await gallery.get(url[:-1] + path)).status_code == 404, path
    error_of(await gallery.get(f"{url}?filename=secret.png"), 400, "invalid_request")
    group, job = url.split("/")[3], url.split("/")[5]
    error_of(await gallery.get(url.replace(group, "jg_nobody")), 404, "group_not_found")
    error_of(await gallery.get(url.replace(job, "j_nobody")), 404, "job_not_found")


async def test_file_that_a_browser_executes_is_downloaded(gallery: Gallery) -> None:
    evil = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    answer = await gallery.get(await gallery.one("x.svg", evil))
    assert await body(answer) == evil
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment;")
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    for name in ("x.html", "x.xhtml", "x.js", "x.xml", "x", "x.png.htm"):
        assert media_types.media_type(name) == "application/octet-stream"
        assert media_types.disposition(name, named_as=name).startswith("attachment;")


@pytest.mark.parametrize(("name", "key", "way"), [("a.mp4", "gifs", "inline"), ("a.glb", "3d", "attachment")])
async def test_file_is_saved_with_its_seed_and_backend(gallery: Gallery, name: str, key: str, way: str) -> None:
    url = await gallery.one(name, b"content", key=key)
    answer = await gallery.get(url)
    await body(answer)
    named = f"7_gpu-1_{name}"
    assert answer.headers["Content-Disposition"].startswith(f'{way}; filename="{named}"')
    page = await fetched(url.partition("/jobs/")[0].removeprefix("/api").replace("job-", ""))
    assert f'download="{named}"' in page.content.decode()


@pytest.mark.parametrize("name", ["a.mp4", "a.flac", "a.txt", "a.png", "a.html", "a.svg"])
def test_no_file_may_run_scripts_or_load_other_files(name: str) -> None:
    policy = media_types.guard_headers(name)["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "sandbox" in policy
    assert "script" not in policy
    # Only what a browser shows in a page that it makes itself keeps its origin.
    assert ("allow-same-origin" in policy) == (name in ("a.mp4", "a.flac", "a.txt"))
    shown = media_types.disposition(name, named_as=name).startswith("inline;")
    assert shown == (name not in ("a.html", "a.svg"))


def test_file_name_cannot_end_its_header() -> None:
    value = media_types.disposition("a.png", named_as='a"; x=\r\nSet-Cookie: b\\é.png')
    assert "\r" not in value
    assert "\n" not in value
    assert value.count('"') == 2
    assert value.isascii()
    assert "%C3%A9" in value


async def test_range_of_a_file_is_served(gallery: Gallery) -> None:
    url = await gallery.one("clip.mp4", bytes(range(200)), key="gifs")
    part = await gallery.get(url, Range="bytes=10-19")
    assert part.status_code == 206
    assert await body(part) == bytes(range(10, 20))
    assert part.headers["Content-Range"] == "bytes 10-19/200"
    error_of(await gallery.get(url, Range="bytes=500-"), 416, "range_not_satisfiable")
    several = await gallery.get(url, Range="bytes=0-1,5-6")
    assert several.status_code == 200
    assert len(await body(several)) == 200


async def test_file_is_read_at_the_present_address_of_its_backend(gallery: Gallery) -> None:
    error_of(await gallery.get(await gallery.one("never-there.png")), 410, "output_gone")
    url = await gallery.one("a.png", picture())
    backend = Backend.objects.filter(pk="gpu-1")
    await in_thread(backend.update)(url="http://localhost:9")
    offline = error_of(await gallery.get(url), 502, "backend_unreachable")
    assert "gpu-1" in offline["detail"]
    await in_thread(backend_update)(backend_id="gpu-1", url=gallery.sim.url)
    assert await body(await gallery.get(url)) == picture()
    await in_thread(backend.delete)()
    error_of(await gallery.get(url), 410, "output_gone")


async def test_file_above_the_limit_is_redirected_to_its_backend(gallery: Gallery, settings: Any) -> None:
    settings.DIRECTOR_PROXY_MAX_BYTES = 100
    url = await gallery.one("big one.mp4", bytes(101), key="gifs")
    answer = await gallery.get(url)
    assert answer.status_code == 307
    port = gallery.sim.url.rsplit(":", 1)[1]
    assert answer.headers["Location"] == f"http://localhost:{port}/view?filename=big%20one.mp4"
    said = error_of(await gallery.get(f"{url}?redirect=no"), 413, "output_too_large")
    assert (said["bytes"], said["backend_id"]) == (101, "gpu-1")
    assert said["url"] == answer.headers["Location"]
    part = await gallery.get(url, Range="bytes=0-49")
    assert (part.status_code, len(await body(part))) == (206, 50)
