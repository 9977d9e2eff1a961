"""Judgify engine: automated judgments, committed before they are answered, watched live from PostgreSQL's own log."""

__version__ = "0.1.0"
