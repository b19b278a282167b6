"""Uploads through the Director's own server: the body is written to its file while it arrives."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from blake3 import blake3

from director.client import AsyncDirector, Director
from jobgroups.api.requests.upload import Upload
from tests.harness.bucket import BucketServer
from tests.harness.graphs import png
from tests.harness.processes import Served
from tests.harness.waits import until

LIMIT: Final = 4 * 2**20
BEARER: Final = {"authorization": "Bearer correct-horse-battery"}
_BOUNDARY: Final = "limit-of-a-part"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    environment = {
        "DIRECTOR_TOKEN": "correct-horse-battery",
        "DIRECTOR_MAX_ASSET_BYTES": str(LIMIT),
        "DIRECTOR_MAX_BODY_BYTES": "65536",
    }
    director = Served(tmp_path_factory.mktemp("assets"), environment=environment)
    yield director
    director.close()


def upload(served: Served, content: bytes, name: str = "cat.png", **fields: str) -> Any:
    files = {"file": (name, content)}
    return served.ask("POST", "/api/assets", files=files, data=fields, headers=BEARER)


def files_of(served: Served) -> list[Path]:
    """Return the files of assets, stored or being received."""
    found = (served.data / "files").rglob("*")
    return sorted(
        one
        for one in found
        if one.is_file() and one.suffix != ".lock" and one.parent.name != "runners"
    )


def begin(served: Served, *headers: str, body: bytes = b"") -> socket.socket:
    """Send the head of an upload and some of its body."""
    address = urlsplit(served.url)
    connection = socket.create_connection((address.hostname or "", address.port or 0), timeout=10)
    kind = f"multipart/form-data; boundary={_BOUNDARY}"
    lines = ["POST /api/assets HTTP/1.1", "Host: localhost:9820", f"Content-Type: {kind}", *headers]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    return connection


def answer_on(connection: socket.socket) -> tuple[int, Any]:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, json.loads(answer.read())


AUTHORIZED: Final = f"Authorization: {BEARER['authorization']}"
PART: Final = (
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
).encode()


def test_asset_is_stored_once_and_read_in_parts(served: Served) -> None:
    content = os.urandom(3 * 2**20 + 17)
    made = upload(served, content)
    asset = made.json()
    assert made.status_code == 201
    assert asset.pop("created_new") is True
    assert asset["hash"] == f"blake3:{blake3(content).hexdigest()}"
    assert (asset["name"], asset["content_type"], asset["size_bytes"]) == (
        "cat.png",
        "image/png",
        len(content),
    )
    again = upload(served, content, "other.png", hash=asset["hash"])
    assert (again.status_code, again.json()["id"]) == (200, asset["id"])
    assert again.json()["created_new"] is False
    path = f"/api/assets/{asset['id']}"
    assert served.ask("GET", path, headers=BEARER).json()["name"] == "cat.png"
    whole = served.ask("GET", f"{path}/content", headers=BEARER)
    assert whole.content == content
    assert whole.headers["content-type"] == "image/png"
    assert whole.headers["x-content-type-options"] == "nosniff"
    for given, part in (("5-", content[5:]), ("0-9", content[:10]), ("-7", content[-7:])):
        headers = {**BEARER, "range": f"bytes={given}"}
        answer = served.ask("GET", f"{path}/content", headers=headers)
        assert (answer.status_code, answer.content) == (206, part)
    headers = {**BEARER, "range": f"bytes={'9' * 5_000}-"}
    assert served.ask("GET", f"{path}/content", headers=headers).content == content
    headers = {**BEARER, "range": f"bytes={len(content)}-"}
    assert served.ask("GET", f"{path}/content", headers=headers).status_code == 416
    tag = whole.headers["etag"]
    for conditions, status in (
        ({"if-none-match": f'"other", W/{tag}'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-match": tag}, 200),
        ({"if-match": '"other"', "range": "bytes=0-4"}, 412),
    ):
        answer = served.ask("GET", f"{path}/content", headers={**BEARER, **conditions})
        assert answer.status_code == status
    assert answer.json()["code"] == "precondition_failed"
    known = f"/api/assets/by-hash/{asset['hash']}"
    assert served.ask("HEAD", known, headers=BEARER).status_code == 200
    assert served.ask("DELETE", path, headers=BEARER).status_code == 204
    assert served.ask("HEAD", known, headers=BEARER).status_code == 404
    assert served.ask("DELETE", path, headers=BEARER).json()["code"] == "asset_not_found"
    assert files_of(served) == []


def test_file_whose_job_is_searched_is_not_kept(served: Served) -> None:
    def search(content: bytes) -> Any:
        return served.ask(
            "POST", "/api/provenance", files={"file": ("a.png", content)}, headers=BEARER
        )

    before = files_of(served)
    assert search(png() + bytes(LIMIT // 2)).json()["code"] == "provenance_unknown"
    assert search(bytes(2 * LIMIT)).json()["code"] == "payload_too_large"
    assert files_of(served) == before


def test_assets_are_listed_in_pages(served: Served) -> None:
    made = [upload(served, bytes([65, number])).json()["id"] for number in range(3)]
    first = served.ask("GET", "/api/assets?limit=2", headers=BEARER).json()
    rest = served.ask("GET", first["next"].removeprefix(served.url), headers=BEARER).json()
    shown = [one["id"] for one in first["results"] + rest["results"]]
    assert shown == made[::-1]
    for one in made:
        served.ask("DELETE", f"/api/assets/{one}", headers=BEARER)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("../../etc/pass\\..\\wd.html", "wd.html"),
        ("nul\x00.png", "nul.png"),
        ("🦊" * 300 + ".png", "🦊" * 251 + ".png"),
        ("..", "file"),
    ],
)
def test_any_name_is_stored_as_data(served: Served, name: str, stored: str) -> None:
    asset = upload(served, name.encode(), name.replace("\x00", "%00")).json()
    if "\x00" in name:
        head = PART.replace(b'filename="a"', f'filename="{name}"'.encode())
        body = head + b"x" + f"\r\n--{_BOUNDARY}--\r\n".encode()
        served.ask("DELETE", f"/api/assets/{asset['id']}", headers=BEARER)
        with begin(served, AUTHORIZED, f"Content-Length: {len(body)}", body=body) as connection:
            asset = answer_on(connection)[1]
    assert asset["name"] == stored
    content = served.ask("GET", f"/api/assets/{asset['id']}/content", headers=BEARER)
    assert content.headers["content-type"] in ("image/png", "application/octet-stream")
    served.ask("DELETE", f"/api/assets/{asset['id']}", headers=BEARER)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ([], 401, "sign_in_required"),
        (
            ["Authorization: Bearer correct-horse-battery", "Origin: https://evil.example"],
            403,
            "origin_not_allowed",
        ),
        (["Authorization: Bearer correct-horse-battery"], 413, "payload_too_large"),
    ],
)
def test_upload_is_refused_before_it_is_read(
    served: Served, headers: list[str], status: int, code: str
) -> None:
    with begin(served, *headers, "Content-Length: 99999999") as connection:
        found, body = answer_on(connection)
    assert (found, body["code"]) == (status, code)
    assert files_of(served) == []


def test_chunked_upload_is_cut_at_the_limit(served: Served) -> None:
    chunk = b"%x\r\n%s\r\n" % (2**16, b" " * 2**16)
    head = b"%x\r\n%s\r\n" % (len(PART), PART)
    with begin(served, AUTHORIZED, "Transfer-Encoding: chunked", body=head) as connection:
        for _ in range(LIMIT // 2**16 + 8):
            connection.sendall(chunk)
        assert answer_on(connection)[0] == 413
    until(lambda: files_of(served) == [], 10, lambda: files_of(served))


def test_invalid_uploads_are_refused_and_leave_nothing(served: Served) -> None:
    refused = [
        upload(served, b"x", hash="blake3:" + "0" * 64),
        upload(served, b""),
        served.ask("POST", "/api/assets", data={"hash": "x"}, files={"f": b"x"}, headers=BEARER),
        served.ask("POST", "/api/assets", files=[("file", b"x"), ("file", b"y")], headers=BEARER),
        served.ask(
            "POST",
            "/api/assets",
            content=b"x" * 2**20,
            headers={**BEARER, "content-type": "multipart/form-data; boundary=b"},
        ),
        # As long as declared, but without the end of the file.
        served.ask(
            "POST",
            "/api/assets",
            content=PART + b"x" * 2**20,
            headers={**BEARER, "content-type": f"multipart/form-data; boundary={_BOUNDARY}"},
        ),
    ]
    assert [one.status_code for one in refused] == [400] * 6
    assert refused[0].json()["errors"][0]["field"] == "hash"
    assert served.ask("POST", "/api/assets", json={}, headers=BEARER).status_code == 415
    assert files_of(served) == []


def test_body_may_begin_after_its_headers(files_folder: Path) -> None:
    """The search of an account ends before the first byte of the body arrives."""
    received = Upload(f"multipart/form-data; boundary={_BOUNDARY}")
    for chunk in (b"", PART, b"", b"cat", f"\r\n--{_BOUNDARY}--\r\n".encode()):
        received.write(chunk)
    assert received.received().path.read_bytes() == b"cat"


def test_upload_that_stops_half_way_leaves_nothing(served: Served) -> None:
    body = PART + b"x" * 3 * 2**20
    with begin(served, AUTHORIZED, f"Content-Length: {LIMIT}", body=body):
        until(lambda: any(one.stat().st_size for one in files_of(served)), 10)
    until(lambda: files_of(served) == [], 10, lambda: files_of(served))
    assert served.ask("GET", "/api/assets", headers=BEARER).json()["results"] == []


def test_client_uploads_once_lists_and_deletes(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "кот.png"
    path.write_bytes(b"cat" * 2**20)
    token = BEARER["authorization"].removeprefix("Bearer ")
    with Director(served.url, token) as director:
        made = director.assets.upload(path)
        assert (made.name, made.created_new) == ("кот.png", True)
        again = director.assets.upload(path)
        assert (again.id, again.created_new) == (made.id, False)
        assert [one.id for one in director.assets.list()] == [made.id]

    async def once_more() -> list[str]:
        async with AsyncDirector(served.url, token) as asynchronous:
            await asynchronous.assets.delete(made.id)
            await asynchronous.assets.upload(path)
            found = [one.id async for one in asynchronous.assets.list()]
            await asynchronous.assets.delete(found[0])
            return found

    (new,) = asyncio.run(once_more())
    assert new != made.id
    assert files_of(served) == []


def test_asset_in_a_bucket(tmp_path: Path, bucket: BucketServer) -> None:
    url = "s3://{bucket_name}/{location}?endpoint_url={endpoint_url}&region_name={region_name}".format(
        **bucket.options
    )
    environment = {"DIRECTOR_TOKEN": "correct-horse-battery", "DIRECTOR_FILES_STORAGE": url}
    director = Served(tmp_path, environment=environment)
    try:
        _asset_in_a_bucket(director, bucket)
    finally:
        director.close()


def _asset_in_a_bucket(director: Served, bucket: BucketServer) -> None:
    content = os.urandom(9 * 2**20)
    bucket.refuses = {"PUT"}
    refused = upload(director, content)
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
    assert "try again in some minutes" in refused.json()["detail"]
    bucket.refuses = set()
    asset = upload(director, content).json()
    assert (asset["created_new"], upload(director, content).json()["created_new"]) == (True, False)
    assert (
        director.ask("HEAD", f"/api/assets/by-hash/{asset['hash']}", headers=BEARER).status_code
        == 200
    )
    path = f"/api/assets/{asset['id']}"
    part = director.ask("GET", f"{path}/content", headers={**BEARER, "range": "bytes=-5"})
    assert (part.status_code, part.content) == (206, content[-5:])
    assert [one for one in bucket.objects if one.startswith("assets/")] == [
        f"assets/{asset['hash'][7:]}-{asset['id']}"
    ]
    assert {one.suffix for one in files_of(director)} <= {".mark"}
    bucket.refuses = {"GET", "HEAD"}
    away = director.ask("GET", f"{path}/content", headers=BEARER)
    assert (away.status_code, away.json()["code"]) == (503, "storage_unavailable")
    bucket.refuses = set()
    assert director.ask("DELETE", path, headers=BEARER).status_code == 204
    assert [one for one in bucket.objects if one.startswith("assets/")] == []
