"""The benchmark: Tapestry beside its peers, on the same machine and in the same run.

Every *system* builds the same two topologies with the same addresses, has its guests ping each
other, is put under the same load, and is taken down. Only one system is up at any time, because
they would share the processors. Rounds alternate between the systems, so that other work on the
machine hits all alike, and what is reported is the median of the rounds.

    rig.py                                what all systems have in common
    tapestry.py  kernel.py  openvswitch.py   the systems
    load.py                               iperf3 and ping: running them, reading what they print
    usage.py                              processor time and memory
    rounds.py                             the alternation, within a bound of wall time
    report.py  chart.py                   medians and ratios; table, JSON, SVG
    micro.py  cases.py                    `--micro`: the cost of single decisions

Nothing here is part of what is installed.
"""
