"""The lab: a whole fabric in network namespaces, from one topology file.

Every host, leaf and guest is a namespace; real daemons run in the hosts' and the leaf's, and every
guest has a real TAP. Nothing here is part of what is installed.
"""
