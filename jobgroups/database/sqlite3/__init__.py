"""Django's SQLite backend with a first-in, first-out write lock."""
