"""What is wrong with an installation, and what to do about it: ``director doctor``."""

from __future__ import annotations
