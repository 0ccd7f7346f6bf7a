"""The decision: pure functions over values. No I/O, clock or randomness; time is an argument."""
