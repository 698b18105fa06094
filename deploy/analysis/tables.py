"""x"""

from pathlib import Path

from deploy.analysis.statistics.conditions import Analysis


def write_tables(run: Path, analysis: Analysis, *, csv: bool = False) -> None:
    pass
