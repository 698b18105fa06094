"""The run as a time line for other programs to show."""
