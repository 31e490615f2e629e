"""The engine: optimizers with their groups and state, and the order in which every step proceeds."""
