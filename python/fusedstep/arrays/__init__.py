"""NumPy arrays as parameters, gradients and state: their memory, and the structures that they come in."""
