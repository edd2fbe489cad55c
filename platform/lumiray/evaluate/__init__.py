"""Evaluation: exact metrics for any number of workers, and reports."""
