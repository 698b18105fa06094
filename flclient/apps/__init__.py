"""Flower apps that come with the toolkit: ordinary ones, run by the engine as any user's app would be."""
