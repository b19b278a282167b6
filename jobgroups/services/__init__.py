"""The only writers of groups, children, attempts, events, runners and leases.

Sync, atomic, keyword-only. Every function is one unit of work: it locks in one order (lease, group,
children, attempts), guards each UPDATE with the states it may come from, and takes the events and
the group's new status along in the same transaction. A lost race returns False and is no error.
"""
