"""One file per step, in order; a published one is never changed."""
