"""What the tests of several folders share: processes, servers, simulators, a runner in the loop,
laws.
"""
