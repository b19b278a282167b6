from tests.cli.conftest import Desk


def test_submit_uploads_local_files_that_inputs_name(desk: Desk) -> None:
    (desk.folder / "cat.png").write_bytes(b"cat")
    graph = """{"1": {"class_type": "LoadImage", "inputs": {"image": "other.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0], "text": "cat.png"}}}"""
    (desk.folder / "load.json").write_text(graph)
    words = ("submit", "load.json", "-b", "gpu-1", "--upload", "--set", "1.image=cat.png")
    group = desk.json(*words)["job_group_id"]
    [asset] = [one for one in desk.json("assets", "list") if one["name"] == "cat.png"]
    assert asset["size_bytes"] == 3
    assert desk.json("assets", "upload", "cat.png")[0]["id"] == asset["id"]
    desk.run("cancel", group)
    assert asset["id"] in desk.out("assets", "delete", asset["id"])
