"""Batches: the jobs of a list or of a sweep, what is refused of them, and their variants."""

from typing import Any

import pytest

from jobgroups.workflow import WorkflowTemplate, build_template, varied, with_seed
from jobgroups.workflow.batch import Batch, BatchInvalid, jobs_of, sweep_of
from jobgroups.workflow.seeds import SeedStrategy, seeds
from tests.harness.graphs import text_to_image

MODELS = ["a.safetensors", "b.safetensors"]
LONG = 2_000_000


def template(**parameters: Any) -> WorkflowTemplate:
    return build_template(text_to_image(), parameters)


def jobs(*entries: Any) -> Batch:
    return jobs_of(template(), list(entries), "random", 5, 100)


def sweep(*axes: Any, strategy: str | None = None, **fields: Any) -> Batch:
    return sweep_of(template(), {"axes": list(axes), **fields}, strategy, 5)


def axis(name: str, *values: Any) -> dict[str, Any]:
    return {"input": name, "values": list(values)}


def errors_of(make: Any, *given: Any, **fields: Any) -> list[tuple[str, str]]:
    with pytest.raises(BatchInvalid) as caught:
        make(*given, **fields)
    return list(caught.value.errors)


def test_product_changes_the_first_axis_slowest_and_stores_dealt_seeds() -> None:
    made = sweep(axis("cfg", 5, 7), {"input": "seed", "count": 2}, strategy="sequential")
    assert [(one.variation, one.seed) for one in made.jobs] == [
        ({"cfg": 5}, 5), ({"cfg": 5}, 6), ({"cfg": 7}, 5), ({"cfg": 7}, 6)
    ]  # fmt: skip
    assert made.sweep == {"mode": "product", "axes": [axis("cfg", 5, 7), axis("seed", 5, 6)]}


def test_zip_takes_one_value_of_each_axis_and_one_seed_unless_a_strategy_is_named() -> None:
    axes = axis("3.cfg", 5, 7), axis("4.ckpt_name", *MODELS)
    made = sweep(*axes, mode="zip")
    assert [one.variation for one in made.jobs] == [
        {"3.cfg": 5, "4.ckpt_name": MODELS[0]},
        {"3.cfg": 7, "4.ckpt_name": MODELS[1]},
    ]
    assert [one.seed for one in made.jobs] == [5, 5]
    assert [one.seed for one in sweep(*axes, mode="zip", strategy="sequential").jobs] == [5, 6]


def test_jobs_have_the_seed_of_their_position_unless_they_name_one() -> None:
    made = jobs({}, {"seed": 9, "metadata": {"shot": 1}}, {"parameters": {"3": {"cfg": 2}}}).jobs
    dealt = seeds(SeedStrategy.RANDOM, 5, 3)
    assert [one.seed for one in made] == [dealt[0], 9, dealt[2]]
    assert [one.variation for one in made] == [None, None, {"3": {"cfg": 2}}]
    assert made[1].metadata == {"shot": 1}


def test_variation_is_applied_after_the_parameters_of_the_group_and_fixes_a_seed() -> None:
    made = varied(template(**{"3.cfg": 2, "steps": 9}), {"cfg": 4, "3.seed": 77})
    inputs = with_seed(made, 1)["3"]["inputs"]
    assert (inputs["cfg"], inputs["steps"], inputs["seed"]) == (4, 9, 77)


@pytest.mark.parametrize(
    ("axes", "fields", "path", "message"),
    [
        (
            [{"input": "3.model", "values": [1]}],
            {},
            "sweep.axes.0.input",
            "The input is a link, which is never overwritten.",
        ),
        (
            [{"input": "nope", "values": [1, 2]}],
            {},
            "sweep.axes.0.input",
            "It matches no input of the workflow.",
        ),
        (
            [{"input": "noise_seed", "values": [1]}],
            {},
            "sweep.axes.0.input",
            "Every job has a seed of its own",
        ),
        (
            [{"input": "cfg", "values": [1]}, {"input": "steps", "values": [2, 3.5]}],
            {},
            "sweep.axes.1.values.1",
            "Must be an integer",
        ),
        (
            [{"input": "seed", "values": [1, True]}],
            {},
            "sweep.axes.0.values.1",
            "Must be an integer from 0",
        ),
        (
            [{"input": "cfg", "values": []}],
            {},
            "sweep.axes.0.values",
            "Must have at least one entry.",
        ),
        ([{"input": "cfg", "values": 3}], {}, "sweep.axes.0.values", "Must be a list of values."),
        ([{"input": 3, "values": [3]}], {}, "sweep.axes.0.input", "Must be the name of an input."),
        ([{"input": "cfg", "count": 3}], {}, "sweep.axes.0.count", "Is for the axis seed alone"),
        (
            [{"input": "seed", "count": 0}],
            {},
            "sweep.axes.0.count",
            "Must be an integer from 1 to 10000.",
        ),
        (
            [{"input": "cfg", "values": [1], "step": 1}],
            {},
            "sweep.axes.0.step",
            "Is not a field of an axis.",
        ),
        ([], {}, "sweep.axes", "Must be a list of 1 to 10 axes."),
        (
            [
                {"input": "cfg", "values": [1]},
                {"input": "cfg", "values": [1]},
                {"input": "cfg", "values": [1]},
                {"input": "cfg", "values": [1]},
                {"input": "cfg", "values": [1]},
                {"input": "cfg", "values": [1]},
                {"input": "cfg", "values": [1]},
                {"input": "cfg", "values": [1]},
                {"input": "cfg", "values": [1]},
                {"input": "cfg", "values": [1]},
                {"input": "cfg", "values": [1]},
            ],
            {},
            "sweep.axes",
            "Must be a list of 1 to 10 axes.",
        ),
        (
            [{"input": "cfg", "values": [1]}],
            {"mode": "sum"},
            "sweep.mode",
            "Must be one of product, zip.",
        ),
        (
            [{"input": "cfg", "values": [1]}, {"input": "3.cfg", "values": [2]}],
            {},
            "sweep.axes.1.input",
            "Axis 0 sets this input, too: cfg of node 3. Remove one of them.",
        ),
        (
            [{"input": "cfg", "values": [1]}, {"input": "cfg_scale", "values": [2]}],
            {},
            "sweep.axes.1.input",
            "Axis 0 sets this input, too: cfg",
        ),
        (
            [{"input": "seed", "values": [1]}, {"input": "3.seed", "values": [2]}],
            {},
            "sweep.axes.1.input",
            "Axis 0 sets this input, too: seed",
        ),
        (
            [{"input": "cfg", "values": [1, 2]}, {"input": "steps", "values": [1]}],
            {"mode": "zip"},
            "sweep.axes",
            "Must be equally long with zip",
        ),
        (
            [
                {"input": "cfg", "values": [0, 1, 2, 3, 4, 5, 6]},
                {
                    "input": "steps",
                    "values": [
                        0,
                        1,
                        2,
                        3,
                        4,
                        5,
                        6,
                        7,
                        8,
                        9,
                        10,
                        11,
                        12,
                        13,
                        14,
                        15,
                        16,
                        17,
                        18,
                        19,
                        20,
                        21,
                        22,
                        23,
                        24,
                        25,
                        26,
                        27,
                        28,
                        29,
                        30,
                        31,
                        32,
                        33,
                        34,
                        35,
                        36,
                        37,
                        38,
                        39,
                    ],
                },
                {"input": "seed", "count": 50},
            ],
            {},
            "sweep.axes",
            "7 × 40 × 50 = 14,000 jobs; at most 10,000.",
        ),
        (
            [
                {"input": "6.text", "values": ["x" * 2000000]},
                {"input": "seed", "values": [0, 1, 2, 3, 4, 5, 6, 7, 8]},
            ],
            {},
            "sweep.axes",
            "The variations have 18,000,",
        ),
    ],
)
def test_wrong_sweep_is_refused_with_a_path(
    axes: list[Any], fields: dict[str, Any], path: str, message: str
) -> None:
    ((where, said),) = errors_of(sweep, *axes, **fields)
    assert where == path
    assert said.startswith(message)


@pytest.mark.parametrize(
    ("entry", "path", "message"),
    [
        ({"parameters": {"3": {"model": 1}}}, "jobs.1.parameters.3.model", "The input is a link"),
        ({"parameters": {"3.nope": 1}}, "jobs.1.parameters.3.nope", "It matches no input"),
        ({"parameters": {"cfg": "high"}}, "jobs.1.parameters.cfg", "Must be a number"),
        ({"parameters": [1]}, "jobs.1.parameters", "Must be an object."),
        ({"seed": -1}, "jobs.1.seed", "Must be an integer from 0"),
        (
            {
                "metadata": {
                    "a": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                }
            },
            "jobs.1.metadata",
            "Must have at most 100 bytes as JSON.",
        ),
        ({"count": 2}, "jobs.1.count", "Is not a field of a job."),
        (7, "jobs.1", "Must be an object."),
    ],
)
def test_wrong_job_is_refused_with_a_path(entry: Any, path: str, message: str) -> None:
    ((where, said),) = errors_of(jobs, {}, entry)
    assert where == path
    assert said.startswith(message)


def test_jobs_are_1_to_10000_and_of_many_wrong_ones_the_first_are_reported() -> None:
    assert errors_of(jobs) == [("jobs", "Must have at least one entry.")]
    assert errors_of(jobs, *[{}] * 10_001) == [("jobs", "Must have at most 10000 entries.")]
    assert len(errors_of(jobs, *[7] * 5_000)) == 10


def test_variants_differ_by_what_counts_for_the_digest() -> None:
    base = template()
    made = jobs(
        {"parameters": {"6.text": "a cat"}},
        {"parameters": {"ckpt_name": MODELS[0]}},
        {"parameters": {"6.text": "a dog", "3.seed": 4}},
        {"parameters": {"4": {"ckpt_name": MODELS[0]}}},
    )
    assert made.variant_of == [0, 1, 0, 1]
    expected = build_template(text_to_image(), {}, {"ckpt_name": MODELS[0]})
    assert [key[0] for key in made.variants] == [base.digests[0], expected.digests[0]]


@pytest.mark.parametrize(
    ("axes", "variants"),
    [
        ([axis("cfg", *range(256))], 256),
        ([axis("cfg", *range(257)), axis("ckpt_name", *MODELS)], 2),
        ([axis("sampler_name", *map(str, range(257))), axis("ckpt_name", *MODELS)], 2),
        ([axis("ckpt_name", *(f"{n}.safetensors" for n in range(257)))], 1),
    ],
)
def test_variants_of_a_batch_are_at_most_256(axes: list[Any], variants: int) -> None:
    made = sweep(*axes)
    assert len(made.variants) == variants == len(set(made.variant_of))
