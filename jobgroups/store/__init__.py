"""SQL for sets of rows. Only services use it: they decide, and hold the locks."""
