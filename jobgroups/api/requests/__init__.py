"""Checks of requests: bodies, fields, query and path parameters."""
