"""Steps that bring a store to the form that this version expects; run at every start."""
