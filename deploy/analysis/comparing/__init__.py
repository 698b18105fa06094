"""Compares runs: what differs between them, and what that did, condition by condition."""
