"""leaf: the userspace top-of-rack router.

It routes by IP from a FIB of host routes and answers ARP for hosts elsewhere with the shared MAC,
so that a guest never needs to learn where its peers are. Start reading at `router.py`.
"""
