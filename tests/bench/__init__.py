"""How fast it is: ``python -m tests.bench [names]`` prints each figure beside its gate and its
floor.
"""
