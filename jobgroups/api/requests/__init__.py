"""What a request may say: bodies, fields, query and path parameters."""
