"""Turns a run directory into a report: takes files, never live objects."""
