"""Sign-in, origins, limits and security headers."""
