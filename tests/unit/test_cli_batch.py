import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from director.cli import batch
from director.cli.exit_status import CommandError
from director.demo.workflow import text_to_image
from jobgroups.workflow import build_template

_LOAD = {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "_meta": {"title": "First"}}
_GRAPH = {**text_to_image(), "10": _LOAD}
_WRONG = tomllib.loads(
    Path(__file__).with_name("cli_batch_errors.toml").read_text(encoding="utf-8")
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _read(
    *sweeps: str, graph: dict[str, Any] = _GRAPH, **options: Any
) -> batch.BatchRequest | None:
    given = {"csv_file": None, "globs": (), "is_zip": False} | options
    return batch.read(graph, build_template(graph), sweeps=sweeps, **given)


def _csv(content: str | bytes, **options: Any) -> Any:
    Path("shots.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    read = _read(csv_file="shots.csv", **options)
    assert read is not None
    return read.fields["jobs"]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("3.cfg=5,7.5, 9", [5, 7.5, 9]),
        ("cfg=5..9", [5, 6, 7, 8, 9]),
        ("3.cfg=0.2..0.8:0.2,1", [0.2, 0.4, 0.6, 0.8, 1]),
        ("3.steps=30..10:15", [30, 15]),
        ('6.text="a, b",c,7,,1..3', ["a, b", "c", "7", "", "1..3"]),
        ("6.text=@@home,x", ["@home", "x"]),
        ("6.text=@lines.txt", ["a, red fox", "7"]),
        ("seed=1,5..6", [1, 5, 6]),
        ("First.image=a.png", ["a.png"]),
    ],
)
def test_values_of_a_sweep_have_the_type_of_the_input(text: str, values: list[Any]) -> None:
    Path("lines.txt").write_bytes(b"\xef\xbb\xbfa, red fox\r\n\r\n7\n")
    read = _read(text)
    assert read is not None
    assert read.fields["sweep"]["axes"] == [{"input": text.partition("=")[0], "values": values}]
    assert [type(value) for value in read.fields["sweep"]["axes"][0]["values"]] == [
        type(value) for value in values
    ]


def test_axes_are_combined_or_paired_and_name_files() -> None:
    read = _read("3.cfg=5,7,9", "seed=x4")
    assert read is not None
    assert read.names >= {"cfg", "3.cfg"}
    assert read.fields["sweep"]["mode"] == "product"
    paired = _read("3.cfg=5,7", "6.text=a,b", is_zip=True)
    assert paired is not None
    assert paired.fields["sweep"]["mode"] == "zip"
    assert _read() is None


@pytest.mark.parametrize(("sweeps", "message"), _WRONG["sweeps"].items())
def test_wrong_sweep_is_refused_with_its_option(sweeps: str, message: str) -> None:
    with pytest.raises(CommandError) as error:
        _read(*sweeps.split())
    assert message in error.value.message


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_row_of_a_csv_is_a_job(delimiter: str) -> None:
    text = '3.cfg|6.text|seed|metadata.shot|meta:v\n7|a|5|sc_1|1.10\n\n|"two\r\nlines, 7"|||\r\n'.replace(
        "|", delimiter
    )
    assert _csv(b"\xef\xbb\xbf" + text.encode()) == [
        {
            "parameters": {"3.cfg": 7, "6.text": "a"},
            "metadata": {"shot": "sc_1", "v": "1.10"},
            "seed": 5,
        },
        {"parameters": {"6.text": "two\r\nlines, 7"}},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *_WRONG["csv"].items(),
        (
            "6.text\nb\nsch\xf6n\n".encode("latin-1"),
            "shots.csv, line 3: The byte 0xF6 is no text in UTF-8.",
        ),
        ("cfg\n7\n".encode("utf-16"), "shots.csv, line 1: The byte 0x00"),
        ("cfg\n" + "7\n" * 10_001, "--csv: Must have at most 10000 entries."),
    ],
)
def test_wrong_csv_is_refused_with_its_line(content: str | bytes, message: str) -> None:
    with pytest.raises(CommandError) as error:
        _csv(content)
    assert message in error.value.message


@pytest.mark.parametrize(
    "pattern", ["{}/f*.png", "10.image={}/f*.png", "First.image=f*.png", "**/f*.png"]
)
def test_files_are_expanded_and_sorted_naturally(folder: Path, pattern: str) -> None:
    for name in ("frame10.png", "frame2.png", "Frame1.png", "other.png"):
        (folder / name).touch()
    (folder / "f.png").mkdir()
    # On Windows the folder has a drive and backslashes.
    read = _read(globs=[pattern.format(folder)])
    assert read is not None
    [axis] = read.fields["sweep"]["axes"]
    assert axis["input"] in ("10.image", "First.image")
    assert [Path(one).name.casefold() for one in axis["values"] if "rame1." not in one] == [
        "frame2.png",
        "frame10.png",
    ]
    assert all(
        isinstance(one, batch.LocalFile) and len(Path(one).parts) + one.startswith("./") > 1
        for one in axis["values"]
    )


@pytest.mark.parametrize(
    ("nodes", "pattern", "message"),
    [
        (_GRAPH, "*.gif", "--inputs 10.image: No file matches *.gif."),
        (_GRAPH, "10.imge=*.png", "--inputs 10.imge: it matches no input"),
        ({**_GRAPH, "11": _LOAD}, "*.png", "several inputs of files: 10.image, 11.image"),
        (text_to_image(), "*.png", "no input of a file"),
    ],
)
def test_wrong_files_are_refused(nodes: dict[str, Any], pattern: str, message: str) -> None:
    with pytest.raises(CommandError) as error:
        _read(graph=nodes, globs=[pattern])
    assert message in error.value.message


@pytest.mark.parametrize(
    "options",
    [
        {"csv_file": "a.csv", "globs": ["*"]},
        {"csv_file": "a.csv", "is_zip": True},
        {"is_zip": True},
    ],
)
def test_options_that_exclude_each_other_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(click.UsageError):
        _read(**options)
