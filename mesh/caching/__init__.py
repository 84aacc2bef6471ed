"""What operators do with the cache: evaluate it on pairs of questions, explain, purge, report."""
