"""I/O that fetches what a decision said it needs, and holds what was fetched."""
