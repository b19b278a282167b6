"""The names of files at the ComfyUI listener."""

import pytest

from jobgroups.domain.listener_files import file_path, is_of_job, numbered, split_annotated


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat.png", ("cat.png", "input")),
        ("a/cat.png [output]", ("a/cat.png", "output")),
        ("cat.png[temp]", ("cat.png", "temp")),
        ("cat.png [input]", ("cat.png", "input")),
        ("cat [1].png", ("cat [1].png", "input")),
        ("cat.png [Output]", ("cat.png [Output]", "input")),
    ],
)
def test_annotated_name_has_path_and_folder(text: str, expected: tuple[str, str]) -> None:
    assert split_annotated(text) == expected


@pytest.mark.parametrize(
    ("subfolder", "name", "path"),
    [
        ("", "cat.png", "cat.png"),
        ("clipspace", "cat.png", "clipspace/cat.png"),
        ("a\\b/", "./cat.png", "a/b/cat.png"),
        ("", "🦊 .. .png", "🦊 .. .png"),
        ("..", "cat.png", None),
        ("a/../..", "cat.png", None),
        ("", "../cat.png", None),
        ("", "a\\..\\cat.png", None),
        ("/etc", "passwd", None),
        ("", "/etc/passwd", None),
        ("\\\\host\\share", "cat.png", None),
        ("", "", None),
        ("a", ".", None),
        ("", "cat/", None),
        ("", "nul\x00.png", None),
        ("", "x" * 256, None),
        ("/".join(["x" * 100] * 4), "cat.png", None),
    ],
)
def test_path_stays_in_its_folder(subfolder: str, name: str, path: str | None) -> None:
    assert file_path(subfolder, name) == path


def test_number_is_before_the_extension() -> None:
    assert [numbered(path, 2) for path in ("cat.png", "a.b/cat", "a/.png", "cat.tar.gz")] == [
        "cat (2).png",
        "a.b/cat (2)",
        "a/.png (2)",
        "cat.tar (2).gz",
    ]


def test_file_of_a_job_is_known_by_its_path() -> None:
    assert is_of_job("j_0123456789ab/cat.png")
    assert not is_of_job("j_0123456789ab.png")
