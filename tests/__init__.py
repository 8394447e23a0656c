"""Tests, one folder for what each kind needs: unit and property need nothing but Python."""
