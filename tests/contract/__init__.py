"""The contract: the simulator does what recordings of a real ComfyUI 0.3.64 and of a 0.33.0
(`33_*`) show.

`recordings/` holds the recordings as they were made, only compressed, and without ComfyUI's own
prose (`description`, `tooltip` and `output_tooltips` of its node classes). A test plays the
recorded client against a server and compares all that comes back; `ignored` lists what is not
compared, and why.

What depends on the machine's speed was changed in those of 0.33.0: 33_05 has no second cancel
within a millisecond, and 33_12 no list of jobs by duration; in 33_08 the third socket closes before
the cancel, not in the pause behind it. In 33_13 the parts of the uploads, which were not recorded,
were added, and the prompts of an unrecorded client were removed from the queue. A recording of the
assets, which the simulator does not have, and those that only count are not here.

A real ComfyUI can be held against its recordings as well, which proves the tests themselves. It
needs `testnodes.py` in its custom_nodes folder, and for KSampler scenarios two checkpoints named
random_sd15.safetensors and tiny_sd15.safetensors:

    pytest tests/contract --comfyui-command "python main.py --cpu --port {port} --base-directory
    {folder} ..."

It starts one for every recording. Scenario 17 also lists nodes and model files, so it shows what
else is installed.
"""
