"""From features to numbers one can believe: heads, metrics, statistics, retrieval."""
