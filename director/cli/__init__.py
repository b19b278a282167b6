"""The command line: ``director submit``, ``watch``, ``list``, ``backends`` …

These commands use a running Director through ``director.client`` and import no Django, so that each
starts in a fraction of a second. Commands of this host (``serve``, ``doctor`` …) are management
commands; ``director.__main__`` chooses between the two.
"""
