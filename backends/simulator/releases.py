"""First versions of ComfyUI that behave differently (comfyui-protocol.md, "Versions"); 0.3.64 is
the oldest recorded.
"""

from typing import Final

Release = tuple[int, ...]

TARGETED_INTERRUPT: Final = (0, 3, 57)
HIDDEN_KEYS: Final = (0, 3, 68)  # those of partner nodes, also in the queue
CREATE_TIME: Final = (0, 3, 69)
OS_NAMES: Final = (0, 4)
PREVIEW_METHOD: Final = (0, 5)
JOBS: Final = (0, 6)
THROTTLE: Final = (0, 7)  # of progress
CANCELLED_JOBS: Final = (0, 9)  # before, an interrupted job is `failed`
MISSING_NODE_TYPE: Final = (0, 12)
REPLACEMENTS: Final = (0, 14)
TIPS_OF_ACCELERATOR: Final = (0, 17)
CROSS_SITE: Final = (0, 19)
DEPENDENCY_CYCLE: Final = (0, 20)
PACKAGE_VERSIONS: Final = (0, 22)
UUID_IDS: Final = (0, 25)  # of prompts
CANCEL: Final = (0, 26)
SAFE_VIEW: Final = (0, 28)
PREVIEWABLE_COUNT: Final = (0, 32)
RECORDED: Final = (0, 33)  # seen in 0.33.0; the first version is not known
REPLACED_WITHOUT_META: Final = (0, 38)
