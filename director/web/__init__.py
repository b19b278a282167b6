"""What all HTTP answers share: errors, health, threads."""
