"""Pull the plug: a Director that is killed at a named step, what outlives it, and who looks at both."""
