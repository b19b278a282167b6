"""Run a workflow with ComfyUI's own SDK (pip install comfy-sdk), on the backends of a Director.

COMFY_BASE_URL is the address of the Director, and COMFY_API_KEY its token if it has one:

    COMFY_BASE_URL=http://localhost:9820 python comfy_sdk_job.py text-to-image.json
"""

import sys

from comfy_sdk import Comfy


def main() -> None:
    """Submit the workflow of a file, print what happens, and save the outputs here."""
    with Comfy() as comfy:
        job = comfy.submit(
            comfy.workflows.from_file(sys.argv[1]), metadata={"example": "comfy_sdk_job"}
        )
        print(job.id)
        for event in job.events():
            if type(event).__name__ != "Preview":
                print(event)
        for output in job.result().outputs:
            print(output.to_file(output.name))


if __name__ == "__main__":
    main()
