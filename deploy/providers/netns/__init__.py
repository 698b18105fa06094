"""Hosts in network namespaces on this machine (Linux, root); `lab` is what the rest of the toolkit uses."""
