"""What the tests of upgrades are made of: a proxy, people who ask without pause, a newer release."""
