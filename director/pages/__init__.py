"""The HTML pages: read models, views and paths. They change data only through the API."""
