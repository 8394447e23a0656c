"""Both engines over a network in memory, on a virtual clock: no descriptors, no waiting."""
