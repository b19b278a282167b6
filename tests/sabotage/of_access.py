"""Breakages of access checks, and of the bounds on memory, disk and threads."""

from tests.sabotage.breakage import Breakage, Edit

OF_DESTINATIONS: tuple[Breakage, ...] = (
    Breakage(
        "The peer of a connection is not checked before a request is sent.",
        "A name that later resolves to a cloud's metadata service exposes its credentials.",
        "comfyui/test_destinations.py::test_nothing_is_sent_when_a_name_resolves_to_a_refused_address",
        Edit("backends/comfyui/destinations.py", "_host_of(peer)", '_host_of(stream.get_extra_info("server_address"))'),
    ),
    Breakage(
        "The peer of an event socket is not checked before its handshake.",
        "The handshake, with the backend's headers, goes to that address.",
        "comfyui/test_destinations.py::test_nothing_is_sent_when_a_name_resolves_to_a_refused_address",
        Edit("backends/comfyui/destinations.py", "_host_of(self.remote_address)", "_host_of(None)"),
    ),
    Breakage(
        "An IPv4 address in IPv6 form is not compared with the refused IPv4 network.",
        "`::ffff:169.254.169.254` passes where 169.254.169.254 is refused.",
        "comfyui/test_destinations.py::test_link_local_address_is_refused_unless_allowed",
        Edit("backends/comfyui/destinations.py", "ip = ip.ipv4_mapped or ip", "ip = ip or ip.ipv4_mapped"),
    ),
)

OF_LIMITS: tuple[Breakage, ...] = (
    Breakage(
        "The check of a body's text makes an object for each element of a list.",
        "A body of 16 MB with 8 million numbers takes more than 1 GB of memory.",
        "unit/test_workflow.py::test_check_text_takes_no_memory_for_each_element",
        Edit(
            "jobgroups/workflow/validation.py",
            "return () if _VALID_TYPES.issuperset(map(type, value)) else enumerate(value)",
            "return list(enumerate(value))",
        ),
    ),
    Breakage(
        "Requests with a large body run in the threads of all other requests.",
        "32 large bodies take all memory at once, and submissions find no free thread.",
        "api/test_threaded_handler.py::test_large_bodies_have_threads_of_their_own",
        Edit("director/web/threaded_handler.py", "    if body_bytes > LARGE_BYTES:\n        return _large\n", ""),
    ),
    Breakage(
        "The server receives a whole body before origin, token and length are checked.",
        "A client without a token fills the disk.",
        "api/test_admission.py::test_chunked_body_is_refused_by_its_headers",
        Edit("director/server/admission.py", "self._refuse_unless_admitted(length or 0)", "pass"),
    ),
    Breakage(
        "A chunked body is received without a limit.",
        "A client with a token fills the disk by one request.",
        "api/test_admission.py::test_chunked_body_is_cut_at_the_limit",
        Edit("director/server/admission.py", "self._limit = limit_of(method, path)", "pass"),
    ),
    Breakage(
        "Probes of addresses run in the threads that submissions need.",
        "64 tests of a silent address delay every submission by 9.5 s.",
        "api/test_threaded_handler.py::test_probes_of_a_silent_address_are_bounded_and_delay_no_submission",
        Edit("director/web/threaded_handler.py", "    if _probes(request):\n        return _probing\n", ""),
    ),
    Breakage(
        "An SVG is served as an image.",
        "A script in a file that a custom node saved runs with the rights of the user.",
        "outputs/test_outputs.py::test_file_that_a_browser_executes_is_downloaded",
        Edit("jobgroups/domain/media_types.py", '".avif": "image/avif",', '".svg": "image/svg+xml",'),
    ),
    Breakage(
        "Several large images are resized at once.",
        "A page of large images takes the memory of all of them.",
        "outputs/test_thumbnails.py::test_large_pictures_are_drawn_one_at_a_time_and_delay_no_small_one",
        Edit("jobgroups/outputs/resize.py", "with _large_image_lock if pixels > _SMALL_PIXELS else", "with"),
    ),
    Breakage(
        "Wrong tokens in the sign-in form are not counted.",
        "The form takes any number of guesses.",
        "api/test_sign_in.py::test_wrong_tokens_in_the_form_are_counted",
        Edit("director/security/sign_in.py", "throttle.record_failure(_address(request))\n        return", "return"),
    ),
    Breakage(
        "A new data folder is readable by everyone on the machine.",
        "Other users read the database, and with it the headers of backends.",
        "unit/test_datadir.py::test_new_folder_is_its_owners_alone_before_anything_lies_in_it",
        Edit("director/server/data_dir.py", "folder.mkdir(mode=0o700, parents", "folder.mkdir(mode=0o755, parents"),
    ),
)
