"""The demo: the seed scenario on a lab, told and measured."""
