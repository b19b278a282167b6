"""The driver of one attempt, from the POST to its stored end."""
