"""The only code that opens descriptors for frames.

Two interfaces, in `port.py` and `tunnel.py`; behind each a real device and an in-memory twin.
Frames cross a port in *bursts* and a tunnel in *trains*, in buffers that the next read reuses.
"""
