"""What steps: optimizers with their groups and state, and the one order of a step."""
