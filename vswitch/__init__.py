"""vswitch: the software switch of a physical host.

It switches Ethernet frames between the guests' ports and sends everything else up to a leaf.
A unicast frame whose destination it does not know is rewritten to the shared MAC instead of
being flooded or lost (US patent 9,515,930). Start reading at `switch.py`: the decision.
"""
