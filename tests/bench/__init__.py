"""How fast it is: ``python -m tests.bench [names]`` measures, and prints what was asked of each figure.

Each figure stands beside its floor, measured in the same run on the same machine: what the same client
gets of a server that does nothing, and what the disk needs for a commit. A number alone says little.
"""
