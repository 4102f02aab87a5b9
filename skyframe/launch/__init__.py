"""From a recipe and a cluster file to a running job, without torch: what login nodes do."""
