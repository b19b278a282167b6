"""The only writers of groups, children, attempts, events, runners and leases.

Synchronous and keyword-only. One function is one transaction: it locks in one order (lease, group,
children, attempts), guards each UPDATE with the states that it may come from, and stores events and
the group's status with the change. A lost race returns False and is not an error.
"""
