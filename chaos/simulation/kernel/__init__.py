"""Virtual time: the event loop, its nodes, and the clocks and randomness that they see."""
