"""Operators that move data between places."""
