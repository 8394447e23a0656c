"""Formats: what is on the wire, and nothing else.

Pure functions and constants over buffers. Nothing here imports anything of ours outside `wire`,
opens a descriptor, or reads a clock. Each format is checked once, at the border, by its `parse`;
whoever holds the result may trust it.
"""
