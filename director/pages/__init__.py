"""The pages for people: read models, views and paths. Everything they change goes through the API."""
