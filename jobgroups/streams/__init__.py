"""The streams of groups: which frames a client gets, in which order. WebSockets and Server-Sent
Events send them.
"""
