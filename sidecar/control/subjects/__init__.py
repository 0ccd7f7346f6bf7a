"""Customers: who they are, what they allowed, what is known of them, and how they get rid of it."""
