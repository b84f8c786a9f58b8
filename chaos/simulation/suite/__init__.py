"""Many seeds on all cores, what they covered, and how fast they were."""
