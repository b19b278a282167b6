"""Keys for partner nodes that come with a prompt, in its ``extra_data``."""

from typing import Final

API_KEY: Final = "api_key_comfy_org"
AUTH_TOKEN: Final = "auth_token_comfy_org"  # noqa: S105 the name
#: The keys of ``extra_data`` whose values are kept in memory alone.
SECRETS: Final = (API_KEY, AUTH_TOKEN)
