"""Delivery of notices."""
