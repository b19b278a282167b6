from pathlib import PureWindowsPath
from typing import Any

import pytest

from jobgroups.domain.file_names import (
    DEFAULT_TEMPLATE,
    FileNames,
    Template,
    TemplateInvalid,
    facts,
)

FILE: dict[str, Any] = {
    "index": 7,
    "number": 2,
    "seed": 42,
    "backend": "gpu-1",
    "job": "j_1",
    "group": "jg_1",
}
FILE |= {"metadata": {"shot": "a/../b", "cfg": "own"}}
FILE |= {"group_metadata": {"scene": "..", "shot": "x", "seed": "x", "n": [1]}}
FILE |= {
    "variation": {
        "3.cfg": 7.5,
        "4.steps": 20,
        "5.text": "a",
        "6.text": "b",
        "8.ckpt": "sd\\x.safetensors",
    }
}
HOSTILE = [
    "../../etc/passwd",
    "..\\boot.ini",
    "C:\\a.png",
    "a\x00b\n.png",
    "..",
    "",
    "   ",
    "a. .",
    ".png",
    "con",
    "-rf.png",
]
HOSTILE += ["NUL.png", "\ud800.png", "é" * 400 + ".png", "a." + "b" * 400, "x" * 9_000_000]


def named(template: str, name: str = "a.webp") -> str:
    return str(Template(template).fill(facts(name=name, **FILE)))


_DEFAULT = (DEFAULT_TEMPLATE, "42_gpu-1_a.webp")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        _DEFAULT,
        *[
            ["{index}_{number}_{job}_{group}", "0007_2_j_1_jg_1.webp"],
            ["{shot}_{3.cfg}_{steps}_{seed}", "a_.._b_7.5_20_42.webp"],
            ["{cfg}_{text}_{5.text}_{ckpt}_{n}", "own__a_sd_x.safetensors_[1].webp"],
            [
                "{index:02}_{3.cfg:.2f}_{steps:03d}_{3.cfg:03d}_{cfg:.1f}",
                "07_7.50_020_7.5_own.webp",
            ],
            ["{name}.png", "a.webp"],
            ["{seed}.PNG", "42.webp"],
            ["v1.0", "v1.0.webp"],
            ["{3.cfg}", "7.5.webp"],
            ["/x//../{scene}/{absent}/{seed}", "x/_/_/_/42.webp"],
            ["C:\\{{x}}\u202e?/NUL.png", "C__{x}__/_NUL.webp"],
            ["-rf/ -x/{absent}-{seed}", "_-rf/_-x/_-42.webp"],
            ["con/aux. /lpt1.x /com¹", "_con/_aux/_lpt1.x/_com¹.webp"],
            ["{seed}_é_雪", "42_é_雪.webp"],
        ],
    ],
)
def test_template_is_filled(template: str, expected: str) -> None:
    assert named(template) == expected


@pytest.mark.parametrize(
    "template", ["{name}", "{backend}/{name}", "../{name}/{name}.png", "/".join(["{name}"] * 8)]
)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leaves_the_folder_or_is_too_long(template: str, name: str) -> None:
    path = named(template, name)
    parts = path.split("/")
    assert len(parts) == template.strip("/").count("/") + 1
    assert all(part.strip(" .") and not PureWindowsPath(part).is_reserved() for part in parts)
    assert not any(part.startswith("-") for part in parts)
    assert max(len(part.encode()) for part in parts) <= 181
    assert len(path.encode()) <= 410
    assert PureWindowsPath(path).parts == tuple(parts)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{}", "has no name"),
        ("{0}", "has no name"),
        ("{seed.__class__}", "plain name"),
        ("{x[0]}", "plain name"),
        ("{seed!r}", "plain name"),
        ("{name.x}", "plain name"),
        ("{seed:999999999}", "must be one of a number"),
        ("{seed:{index}}", "must be one of a number"),
        ("{seed:c}", "must be one of a number"),
        ("{seed:x<9}", "must be one of a number"),
        ("{seed:099d0}", "must be one of a number"),
        ("{", "is wrong"),
        ("}", "is wrong"),
        ("{seed", "is wrong"),
        ("", "end with the name"),
        ("/", "end with the name"),
        ("a/", "end with the name"),
        ("a/b/c/d/e/f/g/h/i", "at most 7 folders"),
    ],
)
def test_template_of_another_form_is_refused(template: str, message: str) -> None:
    with pytest.raises(TemplateInvalid, match=message):
        Template(template)


def test_name_that_no_file_has_is_refused_with_the_known_names() -> None:
    names = FileNames(Template("{take}_{name}"))
    names.check()
    assert [str(names.of(facts(name="a.png", metadata=one))) for one in ({}, {"shot": 1})] == [
        "_a.png",
        "_a_2.png",
    ]
    with pytest.raises(
        TemplateInvalid, match=r"No file has \{take\}\. Names: \{index\}, .*\{group\}, \{shot\}\."
    ):
        names.check()
    names.of(facts(name="a.png", metadata={"take": 1}))
    names.check()


def test_names_differ_by_more_than_case_and_normal_form() -> None:
    names = FileNames(Template("{name}"))
    given = ["a.png", "A.PNG", "a_3.png", "a.png", "a.png", "e\u0301", "\u00c9", "MISSING.txt"]
    found = [
        "a.png",
        "A_2.PNG",
        "a_3.png",
        "a_4.png",
        "a_5.png",
        "\u00e9",
        "\u00c9_2",
        "MISSING_2.txt",
    ]
    assert [str(names.of(facts(name=name))) for name in given] == found
