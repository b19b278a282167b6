"""Files at the ComfyUI listener of a real ``serve`` over two simulated machines: uploads, views,
names in prompts, and Krita's images. Two accounts use it.
"""

from __future__ import annotations

import http.client
import io
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
from blake3 import blake3
from PIL import Image

from tests.harness.graphs import Graph, node, text_to_image
from tests.harness.processes import Served, filled
from tests.harness.simulator_thread import SimulatorThread
from tests.harness.waits import NO_TLS, until

LIMIT: Final = 4 * 2**20
#: Checkpoints that one machine alone has, by its index.
OWN: Final = ("first.safetensors", "second_xl.safetensors")


class Program:
    """A program of an account."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token
        self.headers = {"authorization": f"Bearer {token}"}

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = self.headers | options.pop("headers", {})
        return httpx.request(
            method,
            f"{self.url}{path}",
            trust_env=False,
            verify=NO_TLS,
            timeout=60.0,
            headers=headers,
            **options,
        )

    def upload(
        self, content: bytes, name: str = "cat.png", path: str = "/upload/image", **fields: str
    ) -> httpx.Response:
        return self.ask("POST", path, files={"image": (name, content)}, data=fields)

    def view(
        self, name: str, subfolder: str = "", kind: str = "", **options: Any
    ) -> httpx.Response:
        method, headers = options.pop("method", "GET"), options.pop("headers", {})
        params = {"filename": name, "subfolder": subfolder, "type": kind, **options}
        return self.ask(method, "/view", params=params, headers=headers)

    def render(self, graph: Graph) -> dict[str, Any]:
        """Queue a prompt; return its entry in the history once it has ended."""
        prompt_id = str(uuid.uuid4())
        answer = self.ask("POST", "/prompt", json={"prompt": graph, "prompt_id": prompt_id})
        assert answer.status_code == 200, answer.text

        def entry() -> Any:
            return self.ask("GET", f"/history/{prompt_id}").json().get(prompt_id)

        until(entry, 90.0, entry)
        return entry()


class Farm:
    def __init__(
        self, served: Served, machines: list[SimulatorThread], programs: list[Program]
    ) -> None:
        self.served, self.machines = served, machines
        self.anna, self.ben, self.reader, self.olga = programs


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    folder = tmp_path_factory.mktemp("listener")
    fields: dict[str, Any] = {"krita": True, "seconds": 0.0}
    with (
        SimulatorThread(checkpoints=OWN[:1], name="gpu-1", **fields) as first,
        SimulatorThread(checkpoints=OWN[1:], name="gpu-2", **fields) as second,
    ):
        environment = {"DIRECTOR_ACCOUNTS": "1", "DIRECTOR_MAX_ASSET_BYTES": str(LIMIT)}
        arguments = ("--port", "0", "--comfyui-port", "0")
        urls = [first.url, second.url]
        tokens = filled(folder, ACCOUNTS, DIRECTOR_ACCOUNTS="1").split()
        served = Served(folder, urls, arguments=arguments, environment=environment)
        try:
            url = served.wait_printed(re.compile(r"As one ComfyUI: (http://\S+)"))[1]
            yield Farm(served, [first, second], [Program(url, token) for token in tokens])
        finally:
            served.close()


ACCOUNTS: Final = """
from director.accounts.people import person_add
from director.accounts.tokens import token_create
from jobgroups.domain.access import Role, Scope

people = {
    name: person_add(name, role)
    for name, role in {"anna": Role.ARTIST, "ben": Role.ARTIST, "olga": Role.OPERATOR}.items()
}
for name, scope in (
    ("anna", Scope.SUBMIT), ("ben", Scope.SUBMIT), ("anna", Scope.READ), ("olga", Scope.OPERATE)
):
    print(token_create(people[name], name=scope.value, scope=scope)[1])
"""


def saved(entry: dict[str, Any], node_id: str = "9") -> dict[str, str]:
    assert entry["status"]["status_str"] == "success", entry["status"]
    file: dict[str, str] = entry["outputs"][node_id]["images"][0]
    return file


def viewed(program: Program, file: dict[str, str], **options: Any) -> httpx.Response:
    return program.view(file["filename"], file["subfolder"], file["type"], **options)


def picture(color: str, mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, format="PNG")
    return buffer.getvalue()


def loading(name: str, checkpoint: str = OWN[0]) -> Graph:
    """Return a workflow that saves a picture from a file, at the machine with a checkpoint."""
    return {
        "1": node("LoadImage", image=name),
        "2": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "3": node("VAEEncode", pixels=["1", 0], vae=["2", 2]),
        "4": node("VAEDecode", samples=["3", 0], vae=["2", 2]),
        "9": node("SaveImage", images=["4", 0], filename_prefix="loaded"),
    }


def test_upload_has_the_names_of_comfyui_and_is_its_owners(farm: Farm) -> None:
    first, second = picture("red"), picture("blue")
    answer = farm.anna.upload(first, "name.png").json()
    assert answer == {"name": "name.png", "subfolder": "", "type": "input"}
    assert farm.anna.upload(first, "name.png").json() == answer
    assert (
        farm.anna.upload(second, "name.png", "/api/upload/image").json()["name"] == "name (1).png"
    )
    assert farm.anna.view("name (1).png", kind="input").content == second
    assert farm.anna.upload(second, "name.png", overwrite="true").json() == answer
    assert farm.anna.view("name.png", kind="input").content == second
    inside = farm.anna.upload(first, "name.png", subfolder="clipspace", type="temp").json()
    assert inside == {"name": "name.png", "subfolder": "clipspace", "type": "temp"}
    assert farm.anna.view("name.png", "clipspace", "temp").content == first
    assert farm.anna.view("clipspace/name.png [temp]").content == first
    assert farm.ben.view("name.png", kind="input").status_code == 404
    assert farm.ben.upload(b"other", "name.png").json()["name"] == "name.png"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("../evil.png", {}),
        ("a.png", {"subfolder": ".."}),
        ("a.png", {"subfolder": "/etc"}),
        ("a.png", {"subfolder": "x/../../.."}),
        ("..\\..\\a.png", {}),
        ("a.png", {"type": "models"}),
    ],
)
def test_upload_that_leaves_its_folder_is_refused(
    farm: Farm, name: str, fields: dict[str, str]
) -> None:
    answer = farm.anna.upload(b"content", name, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_view_stays_in_the_folders_of_its_owner(farm: Farm) -> None:
    for query in (
        "filename=..%2Fdirector.sqlite3",
        "filename=/etc/passwd",
        "filename=a.png&subfolder=..%2F..",
        "filename=a.png&type=models",
        "filename=",
    ):
        assert farm.anna.ask("GET", f"/view?{query}").status_code == 400, query
    assert farm.anna.ask("GET", "/view").status_code == 404
    # A file of a machine is no file of an owner.
    assert farm.anna.view("example.png", kind="input").status_code == 404


def test_upload_is_refused_before_it_is_read(farm: Farm) -> None:
    def begin(path: str, token: str, method: str = "POST") -> int:
        address = urlsplit(farm.anna.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        connection.putrequest(method, path)
        connection.putheader("Authorization", f"Bearer {token}")
        connection.putheader("Content-Type", "multipart/form-data; boundary=b")
        connection.putheader("Content-Length", "99999999")
        connection.endheaders()
        return connection.getresponse().status

    for path in ("/upload/image", "/upload/mask", "/api/upload/image"):
        assert begin(path, "wrong") == 401
        assert begin(path, farm.reader.token) == 403
        assert begin(path, farm.anna.token) == 413
    assert begin("/api/etn/image/i1", farm.anna.token, "PUT") == 413
    assert farm.reader.upload(b"small").status_code == 403
    assert farm.anna.ask("POST", "/upload/image", content=b"{}").status_code == 415
    assert farm.anna.ask("POST", "/upload/image", files={"file": b"x"}).status_code == 400
    received = (farm.served.data / "files" / "incoming").rglob("*")
    assert [path for path in received if path.is_file() and path.suffix != ".lock"] == []


def test_uploaded_name_in_a_prompt_is_the_file_at_any_machine(farm: Farm) -> None:
    content = picture("green")
    farm.anna.upload(content, "frame.png", subfolder="shots")
    for checkpoint in OWN:
        entry = farm.anna.render(loading("shots/frame.png", checkpoint))
        assert entry["prompt"][2]["1"]["inputs"]["image"] == "shots/frame.png"
        shown = Image.open(io.BytesIO(viewed(farm.anna, saved(entry)).content))
        assert shown.convert("RGB").getpixel((5, 5)) == (0, 128, 0)


def test_output_of_one_machine_is_an_input_of_the_other(farm: Farm) -> None:
    graph = text_to_image(seed=3, side=64, checkpoint=OWN[0], prefix="scene/made")
    made = saved(farm.anna.render(graph))
    job_id, _, subfolder = made["subfolder"].partition("/")
    assert (job_id[:2], subfolder) == ("j_", "scene")
    name = f"{made['subfolder']}/{made['filename']} [output]"
    entry = farm.anna.render(loading(name, OWN[1]))
    source, copy = viewed(farm.anna, made).content, viewed(farm.anna, saved(entry)).content
    same = [Image.open(io.BytesIO(content)).convert("RGB").tobytes() for content in (source, copy)]
    assert same[0] == same[1]
    refused = farm.ben.ask("POST", "/prompt", json={"prompt": loading(name)})
    assert refused.status_code == 400
    (error,) = refused.json()["node_errors"]["1"]["errors"]
    assert error["type"] == "custom_validation_failed"
    assert error["extra_info"]["input_name"] == "image"
    assert viewed(farm.ben, made).status_code == 404


def test_output_is_viewed_in_parts_and_as_a_preview(farm: Farm) -> None:
    made = saved(farm.anna.render(text_to_image(seed=4, side=64, checkpoint=OWN[0])))
    whole = viewed(farm.anna, made)
    tag = f'"{blake3(whole.content).hexdigest()}"'
    until(lambda: viewed(farm.anna, made, method="HEAD").headers["etag"] == tag)
    whole = viewed(farm.anna, made)
    assert whole.headers["content-type"] == "image/png"
    part = viewed(farm.anna, made, headers={"range": "bytes=8-15"})
    assert (part.status_code, part.content) == (206, whole.content[8:16])
    head = viewed(farm.anna, made, method="HEAD")
    assert (head.content, int(head.headers["content-length"])) == (b"", len(whole.content))
    tagged = viewed(farm.anna, made, headers={"if-none-match": whole.headers["etag"]})
    assert tagged.status_code == 304
    for options, kind, mode in (
        ({"preview": "webp;50"}, "WEBP", "RGB"),
        ({"preview": "jpeg", "rand": "0.5"}, "JPEG", "RGB"),
        ({"channel": "rgb"}, "PNG", "RGB"),
        ({"channel": "a"}, "PNG", "RGBA"),
        ({"channel": "a", "preview": "jpeg"}, "WEBP", "RGB"),
    ):
        shown = Image.open(io.BytesIO(viewed(farm.anna, made, **options).content))
        assert (shown.format, shown.mode, shown.size) == (kind, mode, (64, 64)), options
    farm.anna.upload(b"a text", "note.txt")
    assert farm.anna.view("note.txt", kind="input", preview="webp").content == b"a text"


def test_mask_becomes_the_alpha_of_its_original(farm: Farm) -> None:
    made = saved(farm.anna.render(text_to_image(seed=5, side=64, checkpoint=OWN[0])))
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    buffer = io.BytesIO()
    mask.save(buffer, format="PNG")

    def upload(reference: object, content: bytes = buffer.getvalue()) -> httpx.Response:
        text = json.dumps(reference)
        return farm.anna.upload(
            content, "mask.png", "/upload/mask", original_ref=text, subfolder="clipspace"
        )

    answer = upload(made)
    assert answer.json() == {"name": "mask.png", "subfolder": "clipspace", "type": "input"}
    stored = Image.open(io.BytesIO(farm.anna.view("mask.png", "clipspace", "input").content))
    assert (stored.getpixel((5, 5))[3], stored.getpixel((40, 5))[3]) == (0, 255)
    assert "prompt" in stored.text
    rendered = farm.anna.render(loading("clipspace/mask.png [input]"))
    assert rendered["status"]["status_str"] == "success"
    farm.anna.upload(picture("red", size=(64, 64)), "plain.png")
    assert upload({"filename": "plain.png", "type": "input"}).json()["name"] == "mask (1).png"
    for reference in (
        {"filename": "missing.png"},
        {"filename": "../a.png"},
        {"type": "input"},
        [],
        {**made, "subfolder": "j_000000000000"},
    ):
        assert upload(reference).status_code == 400, reference
    refused = upload(made, picture("red"))
    assert (refused.status_code, "pixels" in refused.json()["error"]["message"]) == (400, True)
    assert upload(made, b"no picture").status_code == 400


def test_krita_puts_images_and_fetches_results(farm: Farm) -> None:
    krita = farm.anna
    assert krita.ask("GET", "/system_stats").status_code == 200
    assert krita.ask("GET", "/api/etn/languages").json() == [{"name": "German", "code": "de"}]
    assert krita.ask("GET", "/api/etn/translate/de/zwei%20Worte").json() == "[de] zwei Worte"
    info = krita.ask("GET", "/api/etn/model_info/checkpoints?offset=0&limit=8").json()
    assert info.pop("_meta") == {"offset": 0, "count": 1, "total": 1}
    assert info.keys() == set(OWN)
    assert krita.ask("GET", "/api/etn/model_info/unet_gguf?offset=0&limit=8").status_code == 404
    subscribed = krita.ask("POST", "/api/etn/workflow/subscribe", json={"client_id": "k"})
    assert subscribed.json() == {"status": "success"}
    content, headers = picture("purple"), {"content-type": "application/octet-stream"}
    image_id = uuid.uuid4().hex
    for status in (201, 200):
        put = krita.ask("PUT", f"/api/etn/image/{image_id}", content=content, headers=headers)
        assert put.status_code == status
    assert krita.ask("GET", f"/api/etn/image/{image_id}").content == content
    assert farm.ben.ask("GET", f"/api/etn/image/{image_id}").status_code == 404
    for index, checkpoint in enumerate(OWN):
        graph = loading("", checkpoint)
        graph["1"] = node("ETN_LoadImageCache", id=image_id)
        graph["9"] = node("ETN_SaveImageCache", images=["4", 0], format="PNG")
        entry = krita.render(graph)
        assert entry["prompt"][2]["1"]["inputs"] == {"id": image_id}
        result = saved(entry)
        assert (result["source"], result["type"]) == ("http", "output")
        fetched = krita.ask("GET", f"/api/etn/image/{result['id']}")
        assert fetched.headers["content-type"] == "image/png"
        shown = Image.open(io.BytesIO(fetched.content)).convert("RGB")
        assert shown.getpixel((5, 5)) == (128, 0, 128)
        assert farm.ben.ask("GET", f"/api/etn/image/{result['id']}").status_code == 404
        puts = [e for e in farm.machines[index][0].audit_log.entries if e["kind"] == "image_put"]
        assert [entry["size"] for entry in puts] == [len(content)]
    strange = krita.ask("PUT", "/api/etn/image/a%2F..%2Fb", content=content)
    assert strange.status_code in (400, 404)
    assert krita.ask("GET", f"/api/etn/image/{uuid.uuid4().hex}").status_code == 404


def lora_choices(farm: Farm) -> list[str]:
    described = farm.olga.ask("GET", "/object_info").json()["LoraLoader"]
    choices: list[str] = described["input"]["required"]["lora_name"][0]
    return choices


def test_lora_of_krita_is_put_on_every_machine_by_those_who_operate_them(farm: Farm) -> None:
    path = "/api/etn/upload/loras/mine.safetensors"
    assert lora_choices(farm) == []
    refused = farm.anna.ask("PUT", path, content=b"lora")
    assert (refused.status_code, "operators" in refused.json()["error"]) == (403, True)
    for _ in range(2):
        answer = farm.olga.ask("PUT", path, content=b"lora" * 2**18)
        assert (answer.status_code, answer.json()) == (201, {"status": "success"})
        # Krita sends the file again with each prompt until it has the name.
        assert lora_choices(farm) == ["mine.safetensors"]
    for machines in farm.machines:
        (put,) = [e for e in machines[0].audit_log.entries if e["kind"] == "model_put"]
        assert (put["folder"], put["name"], put["size"]) == ("loras", "mine.safetensors", 2**20)
    record = farm.served.ask(
        "GET", "/api/audit?action=model.uploaded", headers=farm.olga.headers
    ).json()
    ids = sorted(f"localhost_{urlsplit(machines.url).port}" for machines in farm.machines)
    for entry in record["results"]:
        assert (entry["actor"], entry["target"]) == ("olga", "loras/mine.safetensors")
        assert (entry["details"]["bytes"], sorted(entry["details"]["backends"])) == (2**20, ids)
    assert len(record["results"]) == 2
    models = farm.olga.ask("GET", "/api/etn/model_info/loras?offset=0&limit=8").json()
    assert "mine.safetensors" in models
    for name in ("checkpoints/a.safetensors", "loras/a.py", "loras/..safetensors", "loras/a/b.sft"):
        answer = farm.olga.ask("PUT", f"/api/etn/upload/{name}", content=b"x")
        assert (answer.status_code, "Only LoRAs" in answer.json()["error"]) == (400, True), name
