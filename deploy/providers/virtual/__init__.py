"""Hosts that are processes of this user on this machine, without root; `lab` is what the rest of the toolkit uses."""
