"""The pictures that simulated ComfyUIs render are copied by one request each."""

from typing import Any

import pytest

from jobgroups.models import Capture
from jobgroups.services import stored_files
from tests.harness.farm import Farm, in_thread, until
from tests.harness.graphs import picture

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("files_folder")]


@pytest.mark.parametrize(
    ("version", "ahead"), [("0.3.64", 0.0), ("0.33.0", -3600.0), ("0.33.0", 3600.0)]
)
async def test_rendered_pictures_take_one_request(
    farm: Farm, version: str, ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a file server's clock, which dates them, is not the backend's."""
    sim = await farm.backend(version=version, seconds=0.05, file_clock=ahead)
    write = stored_files.IncomingFile.write

    def refuses_others(incoming: Any, chunk: bytes) -> None:
        sim.faults.inject("status", route="/view", status=503, count=0)
        write(incoming, chunk)

    monkeypatch.setattr(stored_files.IncomingFile, "write", refuses_others)
    await farm.runner(captures=True)
    group = await farm.submit(workflow=picture(), base_seed=1)
    await farm.finished(group)
    await until(in_thread(Capture.objects.exclude(file=None, tries=0).exists))
    row = await in_thread(Capture.objects.get)()
    assert (row.tries, row.reason, row.file_id is not None) == (0, "", True)
