"""The simulated arena: the unchanged product on real servers, in virtual time, from a seed."""
