"""UK Biobank: from its raw files and tables to a cohort."""
