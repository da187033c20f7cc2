"""A runtime in a process of its own: messages, the loop that serves them, and the one who asks."""
