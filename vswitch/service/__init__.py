"""What any daemon needs around its engine: settings, log, API, metrics, signals, CLI scaffolding.

Nothing here knows what a frame is.
"""
