"""Breakages of assets: what is stored, what is deleted, and what a backend gets."""

from tests.sabotage.breakage import Breakage, Edit

OF_ASSETS: tuple[Breakage, ...] = (
    Breakage(
        "A file is stored although its body has no end.",
        "Half of an image is an asset: jobs fail, or render something else.",
        "api/test_assets.py::test_invalid_uploads_are_refused_and_leave_nothing",
        # The parser guards it twice: it knows no size of a part without an end.
        Edit("jobgroups/api/requests/upload.py", "self._parser.close()\n            self._file", "self._file"),
        Edit("jobgroups/api/requests/upload.py", "not self._of_file.size", "not self._file.size_bytes"),
        Edit("jobgroups/api/requests/upload.py", "size_bytes=self._of_file.size", "size_bytes=self._file.size_bytes"),
    ),
    Breakage(
        "An asset is deleted although an open group needs it.",
        "The queued jobs of the group fail.",
        "db/test_assets.py::test_asset_of_an_open_group_stays_and_expires_after_it",
        Edit("jobgroups/services/assets.py", "if needing is not None:", "if False:"),
    ),
    Breakage(
        "A retry does not check whether the assets of its group exist.",
        "The group runs again, and each of its jobs fails.",
        "db/test_assets.py::test_retry_needs_the_assets_of_the_group_and_keeps_them",
        Edit("jobgroups/services/retries.py", "        assets_use_again(tx.group)", "        pass"),
    ),
    Breakage(
        "An input file is uploaded for an attempt that was stopped, or whose lease may be lost.",
        "A backend that another runner drives gets gigabytes for a job that does not run there.",
        "runner/test_assets.py::test_cancelled_job_stops_its_upload",
        Edit("jobgroups/runner/inputs.py", "raise SendAborted(_TAKEN)\n", "pass\n"),
    ),
    Breakage(
        "A file with another length than the asset counts as present at a backend.",
        "After an upload that broke off, every job there reads half a file.",
        "runner/test_assets.py::test_file_that_is_not_whole_is_replaced",
        Edit("jobgroups/runner/inputs.py", "if size != asset.size_bytes:", "if size is None:"),
    ),
)
