"""From manifest and raw logs to one data set: frames on one time line, and what was wrong in words."""
