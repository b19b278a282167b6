from typing import Any

import pytest

from jobgroups.workflow import ParameterInvalid, build_template
from jobgroups.workflow.parameters import INTEGER_INPUTS
from jobgroups.workflow.template import MAX_WARNINGS
from tests.harness.graphs import node

WORKFLOW: dict[str, Any] = {
    "3": node(title="First pass", seed=1, steps=20, cfg=7.0, sampler_name="euler"),
    "4": node(title="Twice", seed=1, steps=10, cfg=["8", 0]),
    "5": node("CLIPTextEncode", title="Twice", text="a cat", clip=["8", 1]),
    "6": node("Blend v1.5", title="Blend v1.5", time_embed=0.5, on=True, box={"x": 1}),
    "8": node("Odd", **{"time_embed.": 0.5, "value": None, "ratio": 7}),
    "3.1": node("Sub", steps=5, title="3"),
}


def patched(parameters: object) -> dict[str, dict[str, Any]]:
    return {key: each["inputs"] for key, each in build_template(WORKFLOW, parameters).workflow.items()}


def changes(parameters: object) -> dict[str, Any]:
    """What differs from the workflow, as ``{"3.steps": 30}``."""
    return {
        f"{key}.{name}": value
        for key, inputs in patched(parameters).items()
        for name, value in inputs.items()
        if value != WORKFLOW[key]["inputs"][name] or type(value) is not type(WORKFLOW[key]["inputs"][name])
    }


def warnings(parameters: object) -> tuple[str, ...]:
    return build_template(WORKFLOW, parameters).warnings


def refusal(parameters: object) -> ParameterInvalid:
    with pytest.raises(ParameterInvalid) as caught:
        build_template(WORKFLOW, parameters)
    return caught.value


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (None, {}),
        ({}, {}),
        ({"steps": 30}, {"3.steps": 30, "4.steps": 30, "3.1.steps": 30}),
        ({"cfg": 5.0}, {"3.cfg": 5.0}),
        ({"3.steps": 30}, {"3.steps": 30}),
        ({"3.1.steps": 30}, {"3.1.steps": 30}),
        # Node 3.1 has the title "3": an id is looked for before a title.
        ({"3": {"steps": 30, "cfg": 5.0}}, {"3.steps": 30, "3.cfg": 5.0}),
        ({"3.1": {"steps": 30}}, {"3.1.steps": 30}),
        ({"First pass.steps": 30}, {"3.steps": 30}),
        ({"First pass": {"steps": 30}}, {"3.steps": 30}),
        ({"Blend v1.5.on": False}, {"6.on": False}),
        ({"Blend v1.5": {"on": False}}, {"6.on": False}),
        ({"time_embed.": 0.7}, {"8.time_embed.": 0.7}),
        ({"box": {"x": 2}}, {"6.box": {"x": 2}}),
        ({"6.box": {"x": 2}}, {"6.box": {"x": 2}}),
        ({"6": {}}, {}),
    ],
)
def test_parameters_set_what_they_name(parameters: object, expected: dict[str, Any]) -> None:
    assert changes(parameters) == expected
    assert warnings(parameters) == ()


def test_an_addressed_parameter_has_the_last_word_in_any_order() -> None:
    for parameters in ({"steps": 30, "3.steps": 40}, {"3.steps": 40, "steps": 30}):
        assert changes(parameters) == {"3.steps": 40, "4.steps": 30, "3.1.steps": 30}


@pytest.mark.parametrize("parameters", [{"Twice.steps": 30}, {"Twice": {"steps": 30}}])
def test_a_title_that_two_nodes_have_is_refused(parameters: object) -> None:
    assert "2 nodes have this title" in refusal(parameters).message


@pytest.mark.parametrize("parameters", [{"clip": "x"}, {"4.cfg": 5.0}, {"4": {"cfg": 5.0}}])
def test_a_link_is_never_overwritten(parameters: object) -> None:
    assert changes(parameters) == {}
    [warning] = warnings(parameters)
    assert "is a link" in warning


@pytest.mark.parametrize(
    "parameters",
    [
        *({name: 3} for name in ("stepz", "3.stepz", "99.steps", "", ".", "3.", ".steps", "Steps")),
        {"99": {"steps": 3}},
        {"3": 20},
    ],
)
def test_what_matches_nothing_comes_back_as_a_warning(parameters: dict[str, Any]) -> None:
    assert changes(parameters) == {}
    [warning] = warnings(parameters)
    assert warning.startswith(f'The parameter "{next(iter(parameters))}')
    assert "matches no input" in warning


# --- names used elsewhere


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"cfg_scale": 5.0}, {"3.cfg": 5.0}),
        ({"guidance_scale": 5.0}, {"3.cfg": 5.0}),
        ({"sampler": "dpmpp_2m"}, {"3.sampler_name": "dpmpp_2m"}),
        ({"3.cfg_scale": 5.0}, {"3.cfg": 5.0}),
        ({"3": {"num_inference_steps": 5}}, {"3.steps": 5}),
    ],
)
def test_names_used_elsewhere_are_understood(parameters: object, expected: dict[str, Any]) -> None:
    assert changes(parameters) == expected
    assert warnings(parameters) == ()


def test_the_exact_name_goes_before_what_it_means_elsewhere_unless_it_is_a_link() -> None:
    workflow = {"1": node(cfg=7.0, seed=1), "2": node("Other", cfg_scale=7.0)}
    made = build_template(workflow, {"cfg_scale": 5.0}).workflow
    assert [made["1"]["inputs"]["cfg"], made["2"]["inputs"]["cfg_scale"]] == [7.0, 5.0]
    workflow = {"1": node(sampler=["2", 0]), "2": node("KSamplerSelect", sampler_name="euler")}
    made = build_template(workflow, {"sampler": "heun"}).workflow
    assert made["2"]["inputs"]["sampler_name"] == "heun"


# --- kinds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("3.steps", value) for value in ("20", 20.0, 20.5, True, None, ["8", 0], {"value": 20})),
        *(("3.cfg", value) for value in ("7", False)),
        *(("6.on", value) for value in (1, "true")),
        *(("3.seed", 1.5), ("text", 5), ("6.box", "x"), ("8.value", ["3", 0]), ("8.ratio", "7")),
    ],
)
def test_a_value_of_another_kind_is_refused(name: str, value: object) -> None:
    refused = refusal({name: value})
    assert refused.field == f"parameters.{name}"
    assert refused.message.startswith("Must be ")


def test_the_refusal_names_the_kind_and_the_node_but_not_the_value() -> None:
    assert str(refusal({"3.steps": "secret"})) == ("parameters.3.steps: Must be an integer, as it is in node 3.")
    assert refusal({"3": {"cfg": "secret"}}).field == "parameters.3.cfg"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("3.cfg", 5),  # an integer is a number
        ("8.ratio", 7.5),  # JavaScript writes 7.0 as 7: the input may well take floats
        ("8.value", 5),  # null has no kind
        ("8.value", "x"),
        ("8.value", None),
    ],
)
def test_a_value_of_a_like_kind_is_taken_as_it_is(name: str, value: object) -> None:
    key, _, inner = name.rpartition(".")
    made = patched({name: value})[key][inner]
    assert made == value
    assert type(made) is type(value)


def test_an_input_that_takes_whole_numbers_takes_no_float() -> None:
    for name in INTEGER_INPUTS:
        with pytest.raises(ParameterInvalid):
            build_template({"1": node(**{name: 4})}, {f"1.{name}": 4.5})


@pytest.mark.parametrize("parameters", [[], "steps", 3, True, ["steps", 3]])
def test_parameters_that_are_no_object_are_refused(parameters: object) -> None:
    assert refusal(parameters).field == "parameters"


def test_warnings_without_number_are_cut() -> None:
    found = warnings({f"unknown{number}": 1 for number in range(5000)})
    assert len(found) == MAX_WARNINGS + 1
    assert "4950 more" in found[-1]


def test_a_warning_repeats_no_unprintable_or_endless_name() -> None:
    [warning] = warnings({"\n\x00" + "k" * 10_000: 1})
    assert warning.isprintable()
    assert len(warning) < 200
