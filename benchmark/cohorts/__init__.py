"""Cohorts, splits, views and the reading of recordings."""
