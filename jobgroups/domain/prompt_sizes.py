"""Sizes of prompts: programs of ComfyUI put pictures and masks into them as texts."""

from typing import Final

#: Bytes of the longest body of a prompt at the ComfyUI listener; ComfyUI's own default is the same.
MAX_PROMPT_BYTES: Final = 100 * 2**20
#: A prompt above this many bytes is large: a machine has one at a time, since ComfyUI repeats it in
#: its answers.
LARGE_PROMPT_BYTES: Final = 8 * 2**20
#: Large bodies that are received or stored at once in a process.
LARGE_PROMPTS_AT_ONCE: Final = 4
#: Bytes of the longest answer of a machine that has a large prompt.
LARGE_ANSWER_BYTES: Final = 256 * 2**20
