import json

import pytest

from backends.comfyui.outputs import collect_outputs, plain_error, view_url

URL = "http://localhost:8188"


def image(filename: str, subfolder: str = "", kind: str = "output") -> dict[str, str]:
    return {"filename": filename, "subfolder": subfolder, "type": kind}


def test_references_example_comes_out_as_printed() -> None:
    outputs = collect_outputs({"9": {"images": [image("ComfyUI_00001_.png")]}}, URL, "p")
    assert outputs == {
        "images": [
            {
                "filename": "ComfyUI_00001_.png",
                "url": "http://localhost:8188/view?filename=ComfyUI_00001_.png",
                "subfolder": "",
                "type": "output",
            }
        ],
        "prompt_id": "p",
    }


@pytest.mark.parametrize(
    ("filename", "subfolder", "kind", "query"),
    [
        ("a.png", "", "output", "filename=a.png"),
        ("a.png", "", "temp", "filename=a.png&type=temp"),
        ("a.png", "job 1/x", "output", "filename=a.png&subfolder=job%201%2Fx"),
        ("ü &?#%.png", "a\\b", "temp", "filename=%C3%BC%20%26%3F%23%25.png&subfolder=a%5Cb&type=temp"),
    ],
)
def test_urls_are_percent_encoded(filename: str, subfolder: str, kind: str, query: str) -> None:
    url = view_url(URL, filename=filename, subfolder=subfolder, type=kind)
    assert url == f"{URL}/view?{query}"


@pytest.mark.parametrize(
    ("nodes", "order", "names"),
    [("10 9 save 2 9.0.0.1", None, "2 9 9.0.0.1 10 save"), ("1 10 9.0.0.1 2 7", ["10", "9", "2"], "10 9.0.0.1 2 1 7")],
)
def test_nodes_come_in_the_prompts_order_or_by_number_and_expanded_ones_at_their_parent(
    nodes: str, order: list[str] | None, names: str
) -> None:
    outputs = {node: {"images": [image(node)]} for node in nodes.split()}
    found = collect_outputs(outputs, URL, "p", node_order=order)
    assert [file["filename"] for file in found["images"]] == names.split()


def test_other_kinds_stand_under_their_own_key_in_the_same_form() -> None:
    clip = {**image("a.mp4", "v", "temp"), "format": "video/h264-mp4", "frame_rate": 8}
    found = collect_outputs(
        {
            "1": {"gifs": [clip], "text": ["a"]},
            "2": {"audio": [image("a.flac")], "text": ["b"], "result": {"path": "m.glb"}},
            "3": {"images": [image("a.webp")], "animated": [True], "prompt_id": ["x"]},
        },
        URL,
        "p",
    )
    assert found["gifs"] == [{**clip, "url": f"{URL}/view?filename=a.mp4&subfolder=v&type=temp"}]
    assert found["audio"][0]["url"] == f"{URL}/view?filename=a.flac"
    assert found["text"] == ["a", "b"]
    assert found["result"] == [{"path": "m.glb"}]
    assert found["animated"] == [True]
    assert found["prompt_id"] == "p"
    assert json.loads(json.dumps(found)) == found


def test_file_of_a_3d_preview_is_a_file_too() -> None:
    saved, camera = image("mesh_00001_.glb", "mesh"), {"position": {"x": 1}}
    nodes = {
        "1": {"3d": [saved]},
        "2": {"result": ["mesh\\mesh_00001_.glb", camera, None]},
        "3": {"result": ["preview3d_advanced_5e.OBJ", None, "b.png"]},
        "4": {"result": ["preview3d_5e.glb", "text.txt", ""]},
    }
    found = collect_outputs(nodes, URL, "p")
    assert [(one["url"].partition("?filename=")[2], one["type"]) for one in found["3d"]] == [
        ("mesh_00001_.glb&subfolder=mesh", "output"),
        ("preview3d_advanced_5e.OBJ&type=temp", "temp"),
        ("preview3d_5e.glb", "output"),
    ]
    assert found["result"] == [one for node in ("2", "3", "4") for one in nodes[node]["result"]]


@pytest.mark.parametrize("item", ["a.png", {}, {"filename": 3}, {"filename": ""}, {"filename": "a", "type": 1}])
def test_every_item_of_images_is_a_file(item: object) -> None:
    found = collect_outputs({"1": {"images": [item]}}, URL, "p")
    assert found == {"images": [], "images_other": [item], "prompt_id": "p"}


OOM_TIPS = (
    "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before "
    "you might have accidentally set the batch_size to a large number."
)


@pytest.mark.parametrize(
    ("sent", "plain"),
    [
        ("CUDA out of memory\n", "CUDA out of memory"),
        (f"Allocation on device 0 failed\n{OOM_TIPS}", "Allocation on device 0 failed"),
        (f"\n{OOM_TIPS}", ""),
        ("two\nlines\n", "two\nlines"),
        ("", ""),
    ],
)
def test_tips_and_the_closing_newline_are_cut_off(sent: str, plain: str) -> None:
    assert plain_error(sent) == plain
