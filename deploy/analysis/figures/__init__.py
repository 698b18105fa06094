"""The pictures: Vega-Lite specifications made with Altair, how they look, and how they become files."""
