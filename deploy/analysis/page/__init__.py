"""The report's page: one HTML file that works offline, its sections, and the findings in sentences."""
