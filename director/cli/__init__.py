"""The command line: ``director submit``, ``watch``, ``list``, ``backends`` …

These commands speak to a running Director through ``director.client`` and import no Django, so that
each of them starts in a fraction of a second. What runs on this machine (``serve``, ``doctor`` …) are
management commands; ``director.__main__`` tells the two apart.
"""

from __future__ import annotations
