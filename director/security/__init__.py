"""Sign-in, origins, limits and headers that protect users."""
