"""Records of how jobs were made, and the search for the job that made a file."""

import json
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from jobgroups.api.requests import upload
from jobgroups.domain.clock import now
from jobgroups.models import Capture, JobGroup, StoredFile
from tests.api.conftest import Api, error_of
from tests.harness.graphs import black_png, png

UNKNOWN = {"group": "jg_000000000000", "job": "j_000000000000", "attempt": 1}


def path_of(group_id: str, job_id: str) -> str:
    return f"/api/job-groups/{group_id}/jobs/{job_id}/provenance.json"


def test_record_of_a_job_that_was_not_sent_has_its_workflow(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1", base_seed=5, parameters={"cfg": 3.5})
    (job,) = made["child_jobs"]
    record: dict[str, Any] = api.get(path_of(made["job_group_id"], job["job_id"])).json()
    assert record["workflow"]["3"]["inputs"] == {"seed": 5, "steps": 20, "cfg": 3.5}
    assert (record["status"], record["attempts"], record["attempt"]) == ("queued", 0, None)


def test_record_of_an_unknown_job_is_not_found(api: Api, farm: list[str]) -> None:
    group_id = api.submit("gpu-1")["job_group_id"]
    error_of(api.get(path_of(group_id, "j_000000000000")), 404, "job_not_found")
    error_of(api.get(path_of("jg_000000000000", "j_000000000000")), 404, "group_not_found")


def search(api: Api, content: bytes) -> Any:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    body = head + content + b"\r\n--x--\r\n"
    return api.ask("POST", "/api/provenance", body, content_type="multipart/form-data; boundary=x")


def huge(mark: str) -> bytes:
    """Return a PNG with a mark, and without its pixels."""
    return black_png(50_000, 50_000, prompt="{}", director=mark)


def test_marked_picture_finds_its_job_until_that_is_deleted(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1")
    found = {
        "job_group_id": made["job_group_id"],
        "job_id": made["child_jobs"][0]["job_id"],
        "attempt": 2,
    }
    mark = json.dumps({"group": found["job_group_id"], "job": found["job_id"], "attempt": 2})
    for picture in (png(prompt="{}", director=mark, workflow="{}"), huge(mark)):
        assert search(api, picture).json() == {**found, "found_by": "mark"}
    JobGroup.objects.all().delete()
    said = error_of(search(api, huge(mark)), 404, "provenance_unknown")["detail"]
    assert (
        f"made by job {found['job_id']} of group {found['job_group_id']}, which is not known here"
        in said
    )


def test_captured_file_of_any_kind_finds_the_first_job_with_its_content(
    api: Api, farm: list[str]
) -> None:
    made = api.submit("gpu-1", "gpu-1")
    first, second = (job["job_id"] for job in made["child_jobs"])
    renamed = png(director=json.dumps(UNKNOWN))
    for number, content in enumerate([b"a video", renamed]):
        digest = blake3(content).hexdigest()
        fields = {
            "blake3": digest,
            "sha256": digest,
            "size_bytes": len(content),
            "created_at": now(),
        }
        stored = StoredFile.objects.create(id=str(number), **fields)
        for job in (first, second):
            Capture.objects.create(
                child_id=job, number=number, backend_id="gpu-1", created_at=now(), file=stored
            )
        found = {
            "job_group_id": made["job_group_id"],
            "job_id": first,
            "attempt": None,
            "found_by": "hash",
        }
        assert search(api, content).json() == found
    mark = json.dumps({"group": made["job_group_id"], "job": second, "attempt": 1})
    assert search(api, png(director=mark)).json()["job_id"] == second


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"GIF89a" + bytes(50), "not a PNG"),
        (huge(json.dumps(UNKNOWN))[:60], "not a PNG"),
        (png(prompt="{}"), "no mark of a job"),
        (png(director="no json"), "no mark of a job"),
        (png(director="[" * 100_000), "no mark of a job"),
        (png(director=json.dumps({"group": "jg_\0", "job": 7})), "not one of the Director"),
        (png(director=json.dumps({**UNKNOWN, "job": ["j"] * 1000})), "not one of the Director"),
        (png(director=json.dumps(UNKNOWN)), "not known here"),
    ],
    ids=["gif", "cut", "none", "text", "deep", "nul", "types", "invented"],
)
def test_file_of_no_known_job_is_not_found(
    api: Api, farm: list[str], content: bytes, says: str
) -> None:
    assert says in error_of(search(api, content), 404, "provenance_unknown")["detail"]


def test_search_without_a_file_is_refused(api: Api) -> None:
    error_of(search(api, b""), 400, "invalid_request")
    error_of(api.post("/api/provenance", {}), 415, "unsupported_media_type")


def test_of_a_searched_file_the_beginning_alone_is_written(
    monkeypatch: pytest.MonkeyPatch, files_folder: Path
) -> None:
    monkeypatch.setattr(upload, "SEARCHED_BYTES", 1_000)
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    content = bytes(range(256)) * 16
    for path, written in (("/api/provenance/", 1_000), ("/api/assets", len(content))):
        received = upload.Upload("multipart/form-data; boundary=x", path=path)
        for part in (head, content[:700], content[700:], b"\r\n--x--\r\n"):
            received.write(part)
        file = received.received()
        assert file.path.read_bytes() == content[:written]
        assert (file.size_bytes, file.hash) == (len(content), blake3(content).hexdigest())
        received.discard()


def test_search_writes_the_beginning_of_a_file_alone(
    api: Api, farm: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "SEARCHED_BYTES", 1_000)
    sizes: list[int] = []
    read_bytes = Path.read_bytes

    def noted(path: Path) -> bytes:
        content = read_bytes(path)
        sizes.append(len(content))
        return content

    monkeypatch.setattr(Path, "read_bytes", noted)
    error_of(search(api, b"x" * 5_000), 404, "provenance_unknown")
    assert sizes == [1_000]
