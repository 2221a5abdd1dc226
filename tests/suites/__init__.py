"""Public conformance suites, each through a small adapter."""

from pathlib import Path

FOLDER = Path(__file__).parent
HEADING = "## Public suites"  # of docs/conformance.md
