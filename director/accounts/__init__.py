"""Accounts: people, their roles and tokens (``DIRECTOR_ACCOUNTS``)."""
