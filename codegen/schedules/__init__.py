"""Schedules: Python functions that write loops for an equation, one file for each algorithm."""
