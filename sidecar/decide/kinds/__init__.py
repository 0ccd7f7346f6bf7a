"""What people write, as types: one file for what belongs together. `documents` has them all."""
