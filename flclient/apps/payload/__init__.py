"""Bytes sent to the clients and back, without a model: what a round costs when nobody computes anything."""
