"""The client of distrain: what runs on the user's machine."""
