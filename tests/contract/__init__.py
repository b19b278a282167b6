"""The contract: the simulator does what recordings of a real ComfyUI 0.3.64 show.

`recordings/` holds the recordings as they were made, only compressed, and without ComfyUI's own
prose (`description`, `tooltip` and `output_tooltips` of its node classes). A test plays the recorded
client against a server and compares all that comes back; `ignored` lists what is not compared, and why.

A real ComfyUI can be held against its recordings as well, which proves the tests themselves. It
needs `testnodes.py` in its custom_nodes folder, and for KSampler scenarios two checkpoints named
random_sd15.safetensors and tiny_sd15.safetensors:

    pytest tests/contract --comfyui-command "python main.py --cpu --port {port} --base-directory {folder} ..."

It starts one for every recording. Scenario 17 also lists nodes and model files, so it shows what else
is installed.
"""
