"""Connections, threads and SQL: how the processes use the database."""
