"""The processes: start, event loop, HTTP server, end."""
