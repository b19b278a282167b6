"""Breakages of the bounds on memory, disk and threads, and of who has access."""

from __future__ import annotations

from tests.sabotage.breakage import Breakage, Edit

OF_LIMITS: tuple[Breakage, ...] = (
    Breakage(
        name="check of text lists each element",
        broken="The check of a body's text makes an object for each element of a list.",
        hurts="A body of 16 MB with 8 million numbers takes more than 1 GB of memory.",
        edits=(
            Edit(
                "jobgroups/workflow/validation.py",
                "return () if _VALID_TYPES.issuperset(map(type, value)) else enumerate(value)",
                "return list(enumerate(value))",
            ),
        ),
        notices="tests/unit/test_workflow.py::test_check_text_takes_no_memory_for_each_element",
    ),
    Breakage(
        name="large bodies beside all others",
        broken="Requests with a large body run in the threads of all other requests.",
        hurts="32 large bodies take all memory at once, and no submission finds a free thread.",
        edits=(
            Edit("director/web/threaded_handler.py", "    if body_bytes > LARGE_BYTES:\n        return _large\n", ""),
        ),
        notices=("tests/api/test_threaded_handler.py::test_large_bodies_have_threads_of_their_own"),
    ),
    Breakage(
        name="body received from everyone",
        broken="The server receives a whole body before origin, token and length are checked.",
        hurts="A client without a token fills the disk.",
        edits=(
            Edit(
                "director/server/admission.py",
                "            self._refuse_unless_admitted(length or 0)\n",
                "            pass\n",
            ),
        ),
        notices="tests/api/test_admission.py::test_chunked_body_is_refused_by_its_headers",
    ),
    Breakage(
        name="chunked body without end",
        broken="A chunked body is received however long it is.",
        hurts="A client with a token fills the disk by one request.",
        edits=(
            Edit(
                "director/server/admission.py",
                "            self._limit = limit_of(_path_of(self))\n",
                "            pass\n",
            ),
        ),
        notices="tests/api/test_admission.py::test_chunked_body_is_cut_at_the_limit",
    ),
    Breakage(
        name="probes in the threads of submissions",
        broken="Probes of addresses run in the threads that submissions need.",
        hurts="64 tests of a silent address delay every submission by 9.5 s.",
        edits=(Edit("director/web/threaded_handler.py", "    if _probes(request):\n        return _probing\n", ""),),
        notices=(
            "tests/api/test_threaded_handler.py::test_probes_of_a_silent_address_are_bounded_and_delay_no_submission"
        ),
    ),
    Breakage(
        name="large pictures at once",
        broken="Several large pictures are drawn at once.",
        hurts="A page of large pictures takes the memory of all of them.",
        edits=(
            Edit(
                "jobgroups/outputs/resize.py",
                "with _large_image_lock if pixels > _SMALL_PIXELS else contextlib.nullcontext():",
                "with contextlib.nullcontext():",
            ),
        ),
        notices=(
            "tests/outputs/test_thumbnails.py::test_large_pictures_are_drawn_one_at_a_time_and_delay_no_small_one"
        ),
    ),
    Breakage(
        name="wrong tokens in the form not counted",
        broken="Wrong tokens in the sign-in form are not counted.",
        hurts="The form takes any number of guesses.",
        edits=(
            Edit(
                "director/security/sign_in.py",
                "        throttle.record_failure(_address(request))\n        return _form(",
                "        return _form(",
            ),
        ),
        notices="tests/api/test_sign_in.py::test_wrong_tokens_in_the_form_are_counted",
    ),
    Breakage(
        name="data folder open to others",
        broken="A new data folder is readable by everyone on the machine.",
        hurts="Other users read the database, and with it the headers of backends.",
        edits=(
            Edit(
                "director/server/data_dir.py",
                "folder.mkdir(mode=0o700, parents=True, exist_ok=True)",
                "folder.mkdir(mode=0o755, parents=True, exist_ok=True)",
            ),
        ),
        notices=("tests/unit/test_datadir.py::test_new_folder_is_its_owners_alone_before_anything_lies_in_it"),
    ),
)
