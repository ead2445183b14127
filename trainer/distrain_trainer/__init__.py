"""The trainer of distrain: what runs in the container."""
