"""The run as a time line for Perfetto and chrome://tracing."""
