"""Scripts that start and stop the real services on loopback, and the demo that drives them."""
