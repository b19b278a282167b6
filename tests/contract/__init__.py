"""The contract: the simulator does what recordings of a real ComfyUI 0.3.64 show.

`recordings/` holds the recordings as they were made, only compressed, and without ComfyUI's own
prose (`description`, `tooltip` and `output_tooltips` of its node classes). A test
plays the recorded client against a server and compares all that comes back:

    recording  events -> the client's steps, and what each socket received
    offwire    what was done besides (signals, removed files, options), which no recording can show
    renames    ids and names that are generated in each run, matched by their turn
    replay     takes the steps, each when the recorded client took it
    streams    the three ways in which frames depend on timing and not on the server
    ignored    the one list of values that are not compared, and why
    compare, verdict  the differences

A real ComfyUI can be held against its recordings as well, which proves the tests themselves. It
needs `testnodes.py` in its custom_nodes folder, and for KSampler scenarios two checkpoints named
random_sd15.safetensors and tiny_sd15.safetensors:

    pytest tests/contract --comfyui http://127.0.0.1:8188
    pytest tests/contract --comfyui-command "python main.py --cpu --port {port} --base-directory {folder} ..."

The first uses a running server and skips what needs a fresh one; the second starts one for every
recording. Scenario 17 also lists nodes and model files, so it shows what else is installed.
"""
