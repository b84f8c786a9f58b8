"""Virtual time: the loop, its nodes, and what a simulated process sees of clocks and chance."""
