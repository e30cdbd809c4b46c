"""A method, a task and two cohorts for ecgcmr-bench, in a package of their own."""
