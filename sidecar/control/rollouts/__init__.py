"""How a release spreads that is not given to everybody at once."""
