"""What a Keras file says: its networks, calls, shapes, variables, and core's graph of them."""
