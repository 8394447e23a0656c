"""Tests of one module each, on memory twins and a virtual clock."""
