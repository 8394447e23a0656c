"""Coverage-guided fuzzing of what reads hostile bytes; not part of the test run."""
