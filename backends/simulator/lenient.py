"""`--lenient`: an image for any graph, also one that ComfyUI would refuse.

Such a graph is replaced by one that runs: it makes one image of the first seed, steps and size that the graph names, at
the node that saves one, else at the last one that has steps or a seed, else at the last one.
"""

from typing import Any

Prompt = dict[str, Any]


def replacement(prompt: Any) -> tuple[Prompt, str] | None:
    """Return the graph that runs in place of a refused one, and its output node; None for what is no graph."""
    if not isinstance(prompt, dict) or not prompt or not all(isinstance(node, dict) for node in prompt.values()):
        return None
    given: dict[str, Any] = {}
    output = next(reversed(prompt))
    for node_id, node in prompt.items():
        inputs = node.get("inputs")
        inputs = inputs if isinstance(inputs, dict) else {}
        given = {name: value for name, value in inputs.items() if isinstance(value, int | float)} | given
        if {"steps", "seed", "noise_seed"} & inputs.keys():
            output = node_id
    output = next((node_id for node_id, node in prompt.items() if node.get("class_type") == "SaveImage"), output)
    size = {"width": given.get("width", 512), "height": given.get("height", 512), "batch_size": 1}
    seed = {"seed": given.get("seed", given.get("noise_seed", 0)), "steps": given.get("steps", 20)}
    latent, sampler, image = (f"{output}.{number}" for number in range(3))
    graph = {
        latent: {"class_type": "EmptyLatentImage", "inputs": size},
        sampler: {"class_type": "KSampler", "inputs": seed | {"latent_image": [latent, 0]}},
        image: {"class_type": "VAEDecode", "inputs": {"samples": [sampler, 0]}},
        output: {"class_type": "SaveImage", "inputs": {"images": [image, 0]}},
    }
    return graph, output
