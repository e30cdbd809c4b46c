"""Executors bring stages into the store; `inline` does so one by one in this process."""
