"""The REST endpoints: a view parses, calls a service or a query, and returns JSON."""
