"""The run as tables for other tools: dataset.parquet, tables/*.parquet, and CSV of all on request."""
