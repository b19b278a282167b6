"""Farms of unequal simulated machines that fail, each in its own way, and the promises held over them."""
