"""What all tests share: how hypothesis searches.

The search is derandomised, so that a run tells of the code alone and not of its luck, and it has
no deadline, since a slow machine is no counter-example.
"""

from hypothesis import settings

settings.register_profile("tapestry", derandomize=True, deadline=None, max_examples=200)
settings.load_profile("tapestry")
