"""A run: its configuration, its loop, and what it writes."""
