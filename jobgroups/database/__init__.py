"""Connections, threads, locks and SQL of the processes."""
